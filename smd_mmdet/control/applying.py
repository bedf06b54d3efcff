"""A rescaling that can be carried out: factors that fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from smd_mmdet.invariance import Dependents
from smd_mmdet.rescale import ConflictError, Multiplications, plan

from .factors import Factors
from .response import Response

__all__ = ['Planned', 'plan_what_fits']


@dataclass(frozen=True)
class Planned:
    """A rescaling that can be carried out.

    Args:
        factors: The factor of each weight that is rescaled, by name.
        left_alone: Why a weight is left alone or held back, by name.
        multiplications: Every tensor to multiply, and by what.
    """

    factors: Mapping[str, float]
    left_alone: Mapping[str, str]
    multiplications: Multiplications


def plan_what_fits(
    model: nn.Module,
    optimizer: Optimizer,
    wanted: Factors,
    dependents: Dependents,
    copies: Iterable[nn.Module] = (),
    response: Response | None = None,
) -> Planned:
    """Plan a rescaling without the weights whose factors do not fit together.

    Args:
        model: The model, without a DDP wrapper.
        optimizer: Its optimizer.
        wanted: The factors that are wanted.
        dependents: What follows the model's weights.
        copies: Models to scale alike, such as averages of this one's weights.
        response: How clipping answers; None where nothing is clipped.

    Raises:
        ValueError: If a weight cannot be rescaled.
    """
    factors, left_alone = dict(wanted.factors), dict(wanted.left_alone)
    names: list[str] = []
    if response is not None:  # to walk through the modules takes long
        names = [name for name, _ in model.named_parameters()]
    copies = list(copies)
    while True:
        try:
            multiplications = plan(
                model,
                optimizer,
                factors,
                dependents,
                copies,
                None if response is None else response.change(factors, names),
            )
        except ConflictError as conflict:
            for name in conflict.names:
                del factors[name]
                left_alone[name] = str(conflict)
        else:
            return Planned(factors, left_alone, multiplications)
