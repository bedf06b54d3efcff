"""What is measured of a layer in one optimizer step, from inner products alone.

To add a quantity: add its formula to :data:`QUANTITIES`. Monitor, records and
report take the list from here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Step:
    """Inner products of one step, float64, any shape (..., layers).

    ``w`` is the weight *before* the step, where the gradient ``g`` was taken;
    ``u`` the weight after it; ``d`` what takes the step back, w = u + d.

    Args:
        uu: ⟨u, u⟩; likewise ``ud``, ``dd``, ``ug``, ``gg``, ``gd``.
        momentum_sq: Squared norm of the momentum buffer after the step, NaN where
            the optimizer has none.
        h: ‖g‖² + 2α⟨v₋₁, g⟩ of SGD, NaN for other optimizers.
    """

    uu: Tensor
    ud: Tensor
    dd: Tensor
    ug: Tensor
    gg: Tensor
    gd: Tensor
    momentum_sq: Tensor
    h: Tensor

    @property
    def ww(self) -> Tensor:
        """‖w‖²."""
        return (self.uu + 2 * self.ud + self.dd).clamp_min(0)

    @property
    def wg(self) -> Tensor:
        """⟨w, g⟩."""
        return self.ug + self.gd


def _angular_update(step: Step) -> Tensor:
    # arctan of the parts, not arccos of a cosine, which is 1 to the last digit.
    tangential = (step.uu * step.dd - step.ud**2).clamp_min(0).sqrt()
    return torch.atan2(tangential, step.uu + step.ud)


def _cosine(step: Step) -> Tensor:
    # A layer without gradient (behind a zero-initialized norm) is orthogonal to it.
    scale = (step.ww * step.gg).sqrt()
    return torch.where(scale > 0, step.wg / scale, torch.where(scale == 0, 0.0, scale))


QUANTITIES = {
    'weight_norm': lambda step: step.ww.sqrt(),
    'grad_norm': lambda step: step.gg.sqrt(),
    'unit_grad_sq': lambda step: step.gg * step.ww,
    'unit_h': lambda step: step.h * step.ww,
    'angular_update': _angular_update,
    'cosine': _cosine,
    'momentum_norm': lambda step: step.momentum_sq.clamp_min(0).sqrt(),
}


def measure(step: Step) -> Tensor:
    """All quantities of a step.

    Returns:
        Tensor: Shape (quantities, ..., layers), in the order of
        :data:`QUANTITIES`.
    """
    return torch.stack([formula(step) for formula in QUANTITIES.values()])
