"""The numeric proof of scale invariance, before a run begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from smd_mmdet.invariance import (
    ScaleInvariance,
    ScaleProof,
    kept_rng,
    verify_scale_invariance,
)
from smd_mmdet.invariance.sample_inputs import (
    comes_from,
    model_loss,
    sample_inputs,
    sample_sizes,
)

if TYPE_CHECKING:
    from mmengine.runner import Runner


def prove(
    runner: Runner, model: nn.Module, entries: Sequence[ScaleInvariance]
) -> tuple[list[ScaleInvariance], list[str]]:
    """Hold what is believed of each weight against numbers.

    Args:
        runner: The run; its data are used where a model takes no random images.
        model: The model, without a DDP wrapper. It is not changed.
        entries: The weights to be measured.

    Returns:
        The entries, each as the numbers have it where they decide, and a warning with
        the figures for each that is not scale-invariant.
    """
    proofs = _proofs(runner, model, [entry.name for entry in entries])
    proved, warnings = [], []
    for entry in entries:
        proof = proofs[entry.name]
        if proof.verdict is False:
            warnings.append(
                f'{entry.name} is measured but is not scale-invariant, the theory does '
                f'not apply to it: {proof.reason}'
            )
        if proof.verdict is not None and proof.verdict != entry.invariant:
            entry = replace(entry, invariant=proof.verdict, reason=proof.reason)
        proved.append(entry)
    return proved, warnings


def _proofs(runner: Runner, model: nn.Module, names: list) -> dict[str, ScaleProof]:
    failure = None
    for data in batches(runner, model):
        try:
            return verify_scale_invariance(model, partial(model_loss, data=data), names)
        except Exception as fault:  # images too small for this model, say
            failure = failure or fault
    raise failure


def batches(runner: Runner, model: nn.Module) -> Iterator[dict | list]:
    """Small random images for a model we know, else the first images of the run."""
    if comes_from(model, 'mmdet', 'mmpretrain'):
        for size in sample_sizes(model):
            yield sample_inputs(model, size)
    loader = runner.train_dataloader
    with kept_rng():
        samples = [loader.dataset[i] for i in range(min(8, len(loader.dataset)))]
    yield loader.collate_fn(samples)
