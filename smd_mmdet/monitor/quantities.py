"""What is measured of a layer in one optimizer step, from inner products alone.

To add a quantity: add its formula to :data:`QUANTITIES`. Monitor, records and
report take the list from here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ['QUANTITIES', 'Step', 'measure']


@dataclass
class Step:
    """Inner products of one step, float64, any shape (..., layers).

    ``w`` is the weight *before* the step, where the gradient ``g`` was taken;
    ``u`` is the weight after it; ``d`` is what takes the step back, w = u + d.

    Args:
        uu: Inner product ⟨u, u⟩.
        ud: Inner product ⟨u, d⟩.
        dd: Inner product ⟨d, d⟩.
        ug: Inner product ⟨u, g⟩.
        gg: Inner product ⟨g, g⟩.
        gd: Inner product ⟨g, d⟩.
        momentum_sq: Squared norm of the momentum buffer after the step, NaN where
            the optimizer has none.
        h: ‖g‖² + 2α⟨v₋₁, g⟩ of SGD, with the momentum α and the buffer v₋₁ before
            the step, or ‖g‖² + 2α²⟨v₋₁, g⟩ with Nesterov momentum; NaN for other
            optimizers.
        update_sq: Squared norm of the update m̂/√v̂ of AdamW and its kin, before
            learning rate and decay; None for other optimizers.
        update_along: Inner product of w and that update.

    Example:
        A step from w = (3, 4) to u = (3, 0), with the gradient g = (0, 1):

        >>> values = (9.0, 0.0, 16.0, 0.0, 1.0, 4.0, torch.nan, 1.0)
        >>> step = Step(*(torch.tensor([value]) for value in values))
        >>> step.ww, step.wg
        (tensor([25.]), tensor([4.]))
    """

    uu: Tensor
    ud: Tensor
    dd: Tensor
    ug: Tensor
    gg: Tensor
    gd: Tensor
    momentum_sq: Tensor
    h: Tensor
    update_sq: Tensor | None = None
    update_along: Tensor | None = None

    @cached_property
    def ww(self) -> Tensor:
        """‖w‖² = ⟨u, u⟩ + 2⟨u, d⟩ + ⟨d, d⟩."""
        return (self.uu + 2 * self.ud + self.dd).clamp_min(0)

    @cached_property
    def wg(self) -> Tensor:
        """⟨w, g⟩ = ⟨u, g⟩ + ⟨d, g⟩."""
        return self.ug + self.gd

    @cached_property
    def unit_grad_sq(self) -> Tensor:
        """‖g̃‖² = ‖g‖²‖w‖²."""
        return self.gg * self.ww


def _angular_update(step: Step) -> Tensor:
    """The angle between u and w = u + d, from the parts of w along and across u.

    ‖u‖ times the part across u is √(‖u‖²‖d‖² − ⟨u,d⟩²), and ‖u‖ times the part along
    it is ‖u‖² + ⟨u,d⟩. The arccos of a cosine would lose a small angle, whose cosine is
    1 to the last digit.
    """
    tangential = (step.uu * step.dd - step.ud**2).clamp_min(0).sqrt()
    return torch.atan2(tangential, step.uu + step.ud)


def _cosine(step: Step) -> Tensor:
    """⟨w, g⟩ / (‖w‖‖g‖), which Lemma 1 has 0 for a scale-invariant weight."""
    return _orthogonal(step.wg, step.unit_grad_sq)


def _orthogonal(along: Tensor, squares: Tensor) -> Tensor:
    """A cosine, from an inner product and the product of the squared norms."""
    # A gradient of 0 (behind a zero-initialized norm, say) counts as orthogonal.
    scale = squares.sqrt()
    return (along / scale).masked_fill_(scale == 0, 0.0)


def _update_sq(step: Step) -> Tensor:
    return _unknown(step) if step.update_sq is None else step.update_sq


def _update_cosine(step: Step) -> Tensor:
    """⟨w, m̂/√v̂⟩ / (‖w‖‖m̂/√v̂‖), which the law of AdamW takes for the decay alone."""
    if step.update_sq is None or step.update_along is None:
        return _unknown(step)
    return _orthogonal(step.update_along, step.ww * step.update_sq)


def _unknown(step: Step) -> Tensor:
    return torch.full_like(step.gg, torch.nan)


QUANTITIES: dict[str, Callable[[Step], Tensor]] = {
    'weight_norm': lambda step: step.ww.sqrt(),
    'grad_norm': lambda step: step.gg.sqrt(),
    'unit_grad_sq': lambda step: step.unit_grad_sq,
    'unit_h': lambda step: step.h * step.ww,
    'angular_update': _angular_update,
    'cosine': _cosine,
    'momentum_norm': lambda step: step.momentum_sq.clamp_min(0).sqrt(),
    'update_sq': _update_sq,
    'update_cosine': _update_cosine,
}


def measure(step: Step, quantities: Iterable[str] = tuple(QUANTITIES)) -> Tensor:
    """Quantities of a step.

    Args:
        step: Its inner products, of shape (..., layers).
        quantities: Names in :data:`QUANTITIES`.

    Returns:
        Tensor: Shape (quantities, ..., layers), in the order of the names.

    Example:
        >>> values = (9.0, 0.0, 16.0, 0.0, 1.0, 4.0, torch.nan, 1.0)
        >>> measured = measure(Step(*(torch.tensor([value]) for value in values)))
        >>> list(QUANTITIES)[:3], measured[:3, 0].tolist()
        (['weight_norm', 'grad_norm', 'unit_grad_sq'], [5.0, 1.0, 25.0])
    """
    return torch.stack([QUANTITIES[name](step) for name in quantities])
