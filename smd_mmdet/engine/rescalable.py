"""Which weights of a run can be rescaled, and what has to follow them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from smd_mmdet._text import one_line
from smd_mmdet.config.errors import SettingError
from smd_mmdet.invariance import Dependents, find_dependents
from smd_mmdet.invariance.sample_inputs import model_loss
from smd_mmdet.monitor.readers import groups_of

from .layers import choose_layers, nothing_found
from .parallel import computed_in_main
from .runs import model_of, scale_invariance_of
from .verify import batches

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['Rescalable', 'find_groups', 'find_rescalable']


@dataclass(frozen=True)
class Rescalable:
    """The weights of a run that can be rescaled.

    Args:
        model: The run's model, without a DDP wrapper.
        optimizer: Its optimizer.
        groups: Names of the weights, each with the index of its parameter group.
        dependents: What has to follow the weights: biases and running statistics.
    """

    model: nn.Module
    optimizer: Optimizer
    groups: Mapping[str, int]
    dependents: Dependents

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weights by name."""
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name] for name in self.groups}


def find_groups(
    runner: Runner, optimizer: Optimizer, exclude: Sequence[str]
) -> dict[str, int]:
    """The scale-invariant weights that the optimizer trains.

    Args:
        runner: The run.
        optimizer: Its optimizer.
        exclude: Names or patterns of weights to leave alone.

    Returns:
        Their names, each with the index of its parameter group.

    Raises:
        SettingError: If there are none.
        RuntimeError: If there are none, and the model could not be looked at.
    """
    entries = scale_invariance_of(runner)
    chosen = choose_layers(entries, exclude=exclude)
    if not chosen and (excluded := choose_layers(entries)):
        raise SettingError(
            'SMDRescaleHook: exclude leaves none of '
            f'{len(excluded)} scale-invariant weights'
        )
    parameters = dict(model_of(runner).named_parameters())
    found = groups_of(optimizer, [parameters[entry.name] for entry in chosen])
    groups = {
        entry.name: group
        for entry, group in zip(chosen, found, strict=True)
        if group is not None
    }
    if not groups:
        raise nothing_found('SMDRescaleHook: no weight to rescale', entries)
    return groups


def find_rescalable(
    runner: Runner, optimizer: Optimizer, groups: Mapping[str, int]
) -> Rescalable:
    """What follows the weights when they are rescaled; all processes must call this.

    A weight that nothing can follow is left alone, with a warning.

    Args:
        runner: The run.
        optimizer: Its optimizer.
        groups: The weights, as :func:`find_groups` has found them.

    Raises:
        SettingError: If no weight can be rescaled.
    """
    model = model_of(runner)
    dependents = computed_in_main(
        lambda: _observed(runner, model) or find_dependents(model)
    )
    left_alone = {
        name: reason
        for name in groups
        if (reason := dependents.refused.get(name, 'it is not used'))
    }
    for name, reason in left_alone.items():
        runner.logger.warning(one_line(f'smd: {name} is not rescaled: {reason}'))
    kept = {name: group for name, group in groups.items() if name not in left_alone}
    if not kept:
        name, reason = next(iter(left_alone.items()))
        raise SettingError(
            f'SMDRescaleHook: no weight can be rescaled, {name} for one: {reason}'
        )
    return Rescalable(model, optimizer, kept, dependents)


def _observed(runner: Runner, model: nn.Module) -> Dependents | None:
    """What a forward pass shows; None where no batch can be had or goes through."""
    try:
        for data in batches(runner, model):
            try:
                forward = functools.partial(model_loss, model, data)
                return find_dependents(model, forward=forward)
            except Exception:  # images too small for this model, say
                continue
    except Exception as fault:
        runner.logger.debug(f'smd: no batch to observe: {fault}')
    return None
