"""The factors of a rescaling: the one place where they are decided.

Everything that rescales asks for an angle. At a rate divided by k a weight at
equilibrium turns √k times too little; a layer away from its equilibrium turns
(w*/‖w‖)^(q/2) times as far as there; and a controller measures both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from smd_mmdet.invariance import Dependents
from smd_mmdet.monitor.readers import reader_for
from smd_mmdet.rescale import ConflictError, statistics_factors
from smd_mmdet.theory import THEORIES, Theory

from .response import Response

__all__ = ['Factors', 'above_epsilon', 'bounded', 'factors_to_angle', 'law_of']

# A layer's output variance is kept this many times above its norm's ε, so that the ε
# is half a per cent of the output at most.
ABOVE_EPSILON = 100.0
# Settings that an optimizer of torch needs for its law, where its title does not tell.
_NEEDED = {'nadamw': ' (decoupled_weight_decay=True, momentum_decay >= 0.1)'}


@dataclass(frozen=True)
class Factors:
    """By what weights are to be multiplied.

    Args:
        factors: The factor of each weight that is to be rescaled, by name.
        left_alone: Why a weight gets no factor, or one nearer to 1, by name.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)


_Kind = TypeVar('_Kind', bound=Factors)


def law_of(optimizer: Optimizer) -> Theory:
    """What is known of an optimizer's equilibrium.

    Args:
        optimizer: The optimizer.

    Returns:
        The law of its norms.

    Raises:
        ValueError: If none is derived, or a rough one only.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> law_of(torch.optim.SGD([weight], lr=0.1)).title
        'SGD'
        >>> law_of(torch.optim.RMSprop([weight]))
        Traceback (most recent call last):
        ValueError: no equilibrium norm is known under RMSprop with its settings; take
        SGD, SGD with Nesterov momentum, AdamW, NAdam with decoupled decay
        (decoupled_weight_decay=True, momentum_decay >= 0.1)
    """
    law = THEORIES.get(reader_for(optimizer).theory)
    if law is None or not law.norm_law or law.indicative:
        known = [
            one.title + _NEEDED.get(name, '')
            for name, one in THEORIES.items()
            if one.norm_law and not one.indicative
        ]
        raise ValueError(
            'no equilibrium norm is known under '
            f'{type(optimizer).__name__} with its settings; take {", ".join(known)}'
        )
    return law


def factors_to_angle(
    ratios: Mapping[str, float], law: Theory, response: Response | None = None
) -> dict[str, float]:
    """The factors that give each weight the angle that is wanted of it.

    Δ² goes with ‖w‖^−q at given gradients, so the factor is (Δ/Δ_wanted)^(2/q). Where
    gradients are clipped their coefficients change as well, as the response tells.

    Args:
        ratios: Δ as it is over Δ as it is wanted, of each weight by name.
        law: What is known of the optimizer's equilibrium.
        response: How clipping answers; None where nothing is clipped.

    Returns:
        Factor of each weight by name.

    Example:
        >>> ratios = {'conv.weight': 0.25}
        >>> [factors_to_angle(ratios, THEORIES[name]) for name in ('sgd', 'adamw')]
        [{'conv.weight': 0.5}, {'conv.weight': 0.25}]
    """
    factors = {name: ratio ** (2 / law.exponent) for name, ratio in ratios.items()}
    if response is None or not law.clips:
        return factors
    return response.settled(factors, law.exponent)


def bounded(
    factors: Mapping[str, float], largest: float, tolerance: float
) -> dict[str, float]:
    """Factors within bounds, without those that hardly differ from 1.

    Args:
        factors: Factor of each weight, by name.
        largest: The largest, above 1; the smallest is its inverse.
        tolerance: Distance from 1 up to which a factor is left out.

    Returns:
        What is left of them.

    Example:
        >>> bounded({'a': 9.0, 'b': 0.1, 'c': 0.99, 'd': 0.7}, 4.0, tolerance=0.03)
        {'a': 4.0, 'b': 0.25, 'd': 0.7}
    """
    return {
        name: min(max(c, 1 / largest), largest)
        for name, c in factors.items()
        if abs(c - 1) > tolerance
    }


def above_epsilon(wanted: _Kind, model: nn.Module, dependents: Dependents) -> _Kind:
    """Hold factors back that would bring output variances near a norm's ε.

    A norm divides by √(variance + ε), so that scale invariance ends where the variance
    of what it normalizes comes near ε. It waits for the device.

    Args:
        wanted: The factors that are wanted.
        model: The model, without a DDP wrapper.
        dependents: What follows its weights: the norms after them, for one.

    Returns:
        Factors that leave each variance at 100 ε at least, if it was above.
    """
    factors, held = dict(wanted.factors), dict(wanted.left_alone)
    try:
        statistics = statistics_factors(dependents, factors)
    except ConflictError:  # told when the rescaling is planned
        return wanted
    shrinking = {
        name: lowest
        for name, scale in statistics.items()
        if (lowest := min(c for _, c in scale)) < 1
    }
    for (name, lowest), variance in zip(
        shrinking.items(), _variances(model, shrinking), strict=True
    ):
        norm: Any = model.get_submodule(name)
        limit = min(1.0, math.sqrt(ABOVE_EPSILON * norm.eps / max(variance, 1e-300)))
        if lowest >= limit:
            continue
        share = math.log(limit) / math.log(lowest)
        calls = dependents.statistics[name]
        for weight in {p for call in calls for p in call if factors.get(p, 1) < 1}:
            factors[weight] **= share
            held[weight] = f'held back, {name} is near its ε'
    factors = {name: c for name, c in factors.items() if c != 1}
    return replace(wanted, factors=factors, left_alone=held)


def _variances(model: nn.Module, names: Mapping[str, float]) -> list[float]:
    """Median of each norm's running variances, in one message from the device."""
    if not names:
        return []
    norms: list[Any] = [model.get_submodule(name) for name in names]
    medians = [norm.running_var.double().median() for norm in norms]
    device = medians[0].device
    values: list[float] = torch.stack([m.to(device) for m in medians]).tolist()
    return values
