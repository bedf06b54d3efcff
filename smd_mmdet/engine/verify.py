"""The numeric proof of scale invariance, before a run begins.

The structure of a model tells which weights should be scale-invariant. The numbers
tell which are: a weight w is, if the loss at cw is the loss at w for all c > 0, and so
its gradient orthogonal to it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from smd_mmdet._text import one_line
from smd_mmdet.invariance import (
    ScaleInvariance,
    ScaleProof,
    verify_scale_invariance,
)
from smd_mmdet.invariance.sample_inputs import (
    comes_from,
    model_loss,
    sample_inputs,
    sample_sizes,
)
from smd_mmdet.invariance.undisturbed import TouchedWarning, kept_data

from .runs import whole_model

if TYPE_CHECKING:
    from mmengine.runner import Runner


__all__ = ['batches', 'proved']


def proved(runner: Runner, entries: list[ScaleInvariance]) -> list[ScaleInvariance]:
    """Hold what is believed of each weight against numbers, and warn of what is wrong.

    Args:
        runner: The run. Its model is not changed; its data are used where the model
            takes no random images.
        entries: The weights to be measured.

    Returns:
        The entries, each as the numbers have it where they decide.
    """
    try:
        with _logged(runner.logger):
            entries, faults = _compared(runner, whole_model(runner), entries)
    except Exception as fault:
        faults = [f'scale invariance is not proved by numbers: {fault}']
    for text in faults:
        runner.logger.warning(f'smd: {one_line(text)}')
    return entries


@contextlib.contextmanager
def _logged(logger: logging.Logger) -> Iterator[None]:
    """Let the run's log say if the proof changed the model, which was put back."""
    with warnings.catch_warnings():
        warnings.simplefilter('always', TouchedWarning)
        show = warnings.showwarning

        def tell(message: Any, category: Any, *place: Any, **line: Any) -> None:
            if issubclass(category, TouchedWarning):
                logger.warning(f'smd: {message}')
            else:
                show(message, category, *place, **line)

        warnings.showwarning = tell
        yield


def _compared(
    runner: Runner, model: nn.Module, entries: list[ScaleInvariance]
) -> tuple[list[ScaleInvariance], list[str]]:
    """The entries as the numbers have them, and warnings of what is not invariant."""
    proofs = _proofs(runner, model, [entry.name for entry in entries])
    proved, faults = [], []
    for entry in entries:
        proof = proofs[entry.name]
        if proof.verdict is False:
            faults.append(
                f'{entry.name} is measured but is not scale-invariant, the theory does '
                f'not apply to it: {proof.reason}'
            )
        if proof.verdict is not None and proof.verdict != entry.invariant:
            entry = replace(entry, invariant=proof.verdict, reason=proof.reason)
        proved.append(entry)
    return proved, faults


def _proofs(runner: Runner, model: nn.Module, names: list) -> dict[str, ScaleProof]:
    failures = []
    for data in batches(runner, model):
        try:
            return verify_scale_invariance(model, partial(model_loss, data=data), names)
        except Exception as fault:  # images too small for this model, say
            failures.append(fault)
    raise failures[0]


def batches(runner: Runner, model: nn.Module) -> Iterator[dict | list]:
    """Batches to try a model on, until it takes one.

    Args:
        runner: The run, whose first images are the last that is tried.
        model: Its model, without a DDP wrapper; small random images go first if it is
            one that we know.
    """
    if comes_from(model, 'mmdet', 'mmpretrain'):
        for size in sample_sizes(model):
            yield sample_inputs(model, size)
    loader = runner.train_dataloader
    with kept_data(loader.dataset):
        samples = [loader.dataset[i] for i in range(min(8, len(loader.dataset)))]
    yield loader.collate_fn(samples)
