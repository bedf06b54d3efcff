"""What the hooks ask of a run before they begin their work."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS
from torch import nn
from torch.optim import Optimizer

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.types import type_name
from smd_mmdet.invariance import ScaleInvariance
from smd_mmdet.invariance.undisturbed import kept_rng
from smd_mmdet.monitor.shards import is_flattened, sharded

from .layers import find_layers

if TYPE_CHECKING:  # MMEngine's runner imports its hooks, and with them this file
    from mmengine.runner import Runner

__all__ = [
    'accumulated',
    'model_of',
    'optimizer_of',
    'refuse_second',
    'scale_invariance_of',
    'whole_model',
    'whole_shapes',
]


def refuse_second(runner: Runner, kind: type[Hook]) -> None:
    """Refuse a run that has a hook of ours twice.

    Args:
        runner: The run.
        kind: The hook's class.

    Raises:
        SettingError: If there are several; it names where they come from.
    """
    found = [hook for hook in runner.hooks if isinstance(hook, kind)]
    if len(found) < 2:
        return
    places = _places(runner.cfg, {type(hook).__name__ for hook in found})
    by_code = len(found) - len(places)
    if by_code > 0:
        places.append(f'{by_code} registered by code')
    raise SettingError(
        f'{kind.__name__}: the run has {len(found)} of it, and one does all there is '
        f'to do: {", ".join(places)}; keep one of them. A config has the hooks of '
        'those in its _base_ too, unless it sets custom_hooks anew or the entry of '
        'default_hooks to None'
    )


def _places(config: Mapping, kinds: Collection[str]) -> list[str]:
    """Where a config asks for hooks of some kinds, with their settings."""
    default, custom = config.get('default_hooks'), config.get('custom_hooks')
    entries = [(f'default_hooks.{key}', hook) for key, hook in (default or {}).items()]
    entries += [(f'custom_hooks[{i}]', hook) for i, hook in enumerate(custom or [])]
    return [
        f'{place} ({_settings(hook)})'
        for place, hook in entries
        if isinstance(hook, Mapping) and type_name(hook) in kinds
    ]


def _settings(hook: Mapping) -> str:
    """The settings of a hook as a config has them."""
    told = (f'{key}={hook[key]!r}' for key in hook if key != 'type')
    return ', '.join(told) or 'no settings'


def optimizer_of(runner: Runner, hook: str) -> Optimizer:
    """The one optimizer of a run.

    Args:
        runner: The run.
        hook: Name of the hook that asks, for the message.

    Raises:
        SettingError: If there are several optimizers.
    """
    wrapper = runner.optim_wrapper
    # OptimWrapperDict is a subclass of OptimWrapper.
    if isinstance(wrapper, OptimWrapperDict):
        names = ', '.join(wrapper.keys())
        raise SettingError(
            f'{hook}: optim_wrapper holds several optimizers ({names}); the hook is '
            'for runs with a single one: leave it out of custom_hooks'
        )
    if not isinstance(wrapper, OptimWrapper):
        raise SettingError(
            f'{hook}: optim_wrapper is a {type(wrapper).__name__}; the hook needs an '
            "OptimWrapper of MMEngine's, around a single optimizer"
        )
    return wrapper.optimizer


def accumulated(runner: Runner) -> int:
    """How many iterations make one step of the optimizer."""
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def model_of(runner: Runner) -> nn.Module:
    """The model of a run, without the wrapper that DDP puts around it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def whole_model(runner: Runner) -> nn.Module:
    """The model of a run, or one like it where that is in parts.

    One process alone cannot run a model that is sharded. So another one is built from
    the config, on the host, without the weights that it is to begin with.

    Args:
        runner: The run, whose random numbers stay as they are.

    Raises:
        SettingError: If the config does not tell of a model in parts how it is built.
    """
    model = model_of(runner)
    if sharded([*model.modules(), *model.parameters()]) is None:
        return model
    config = runner.cfg.get('model')
    if not isinstance(config, Mapping):
        raise SettingError(
            'model: it is sharded, and which weights are scale-invariant is found on '
            'one that is whole; give model as a dict, of which one can be built'
        )
    with kept_rng():
        whole: nn.Module = MODELS.build(copy.deepcopy(config))
    return whole


def whole_shapes(runner: Runner) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a run's weights, where its parameters do not tell them."""
    if not any(map(is_flattened, model_of(runner).parameters())):
        return None
    whole = whole_model(runner).named_parameters()
    return {name: tuple(param.shape) for name, param in whole}


def scale_invariance_of(runner: Runner) -> list[ScaleInvariance]:
    """What is known of each parameter of a run's model.

    SMDOptimWrapperConstructor has found it already and may have been told better by
    its settings; in a run without it the model is looked at now.
    """
    known = getattr(runner.optim_wrapper, 'scale_invariance', None)
    return find_layers(whole_model(runner)) if known is None else known
