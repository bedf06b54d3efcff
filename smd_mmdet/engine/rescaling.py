"""Multiplying the weights of a run by factors, and all that follows them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from mmengine.model import BaseAveragedModel
from torch import nn

from smd_mmdet._text import one_line
from smd_mmdet.control.applying import plan_what_fits
from smd_mmdet.control.factors import Factors
from smd_mmdet.control.response import Response
from smd_mmdet.rescale import apply

from .parallel import all_processes, together
from .rescalable import Rescalable

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['listed', 'rescale_weights']


def rescale_weights(
    runner: Runner,
    targets: Rescalable,
    factors: Mapping[str, float],
    cause: str,
    left_alone: Mapping[str, str] | None = None,
    response: Response | None = None,
    level: int = logging.INFO,
) -> Mapping[str, float]:
    """Rescale weights in all processes, or in none if one of them cannot.

    The log tells which weights were scaled, by how much and why.

    Args:
        runner: The run.
        targets: Its weights, and what follows them.
        factors: The factor of each weight to rescale, by name.
        cause: What the log gives as the reason.
        left_alone: Why a weight is left alone or held back, by name.
        response: How clipping answers, the same in all processes; None where nothing
            is clipped.
        level: How loud the log is told.

    Returns:
        The factors that were applied. Those that do not fit together are not.
    """
    try:
        planned = together(
            lambda: plan_what_fits(
                targets.model,
                targets.optimizer,
                Factors(factors, left_alone or {}),
                targets.dependents,
                _averages(runner),
                response,
            ),
            all_processes(),
        )
    except Exception as fault:
        runner.logger.warning(
            f'smd: weights are not rescaled at iteration {runner.iter + 1} '
            f'({cause}), training goes on: {fault}'
        )
        return {}
    apply(planned.multiplications)
    runner.logger.log(
        level,
        f'smd: iteration {runner.iter + 1}: {len(planned.factors)} scale-invariant '
        f'weights rescaled by {_range(planned.factors.values())} '
        f'({cause}){listed(planned.left_alone)}',
    )
    return planned.factors


def listed(left_alone: Mapping[str, str]) -> str:
    """The end of a message: the weights that are left alone or held back, and why."""
    if not left_alone:
        return ''
    named = ', '.join(f'{name} ({reason})' for name, reason in left_alone.items())
    return f'; left alone or held back: {one_line(named)}'


def _averages(runner: Runner) -> list[nn.Module]:
    """The averaged copies of the model that hooks such as EMAHook keep."""
    averages = (getattr(hook, 'ema_model', None) for hook in runner.hooks)
    return [a.module for a in averages if isinstance(a, BaseAveragedModel)]


def _range(factors: Collection[float]) -> str:
    low, high = min(factors, default=1), max(factors, default=1)
    return f'{low:.4g}' if low == high else f'{low:.4g} to {high:.4g}'
