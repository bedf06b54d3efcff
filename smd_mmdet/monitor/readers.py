"""How the motion of the weights is read off an optimizer's step.

To add an optimizer with algebra or theory of its own: add a reader here and name
it in :data:`READERS`; what is known of its equilibrium goes to :data:`.THEORIES`.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from smd_mmdet import theory

from .kernels import GG, GV, VV, WG, WV, WW
from .kernels.layout import Layer
from .quantities import Step

# A row of what is read of a layer: the six inner products, and the squared norm of
# the optimizer's first moment.
ROW = 7
MOMENT = 6


class Reader:
    """What the readers share.

    Args:
        optimizer: Any torch optimizer.
        params: The measured parameters.
        groups: The index of each one's parameter group.
    """

    theory = 'none'
    before_step: Callable[[], None] | None = None
    tensors: Callable[[], Iterator[Layer]]
    moments: Callable[[], Iterator[Tensor | None]]
    step: Callable[[Tensor, Tensor, Tensor, Tensor], Step]

    def __init__(
        self, optimizer: Optimizer, params: Sequence[nn.Parameter], groups: list[int]
    ) -> None:
        self.optimizer = optimizer
        self.params = params
        self.groups = groups

    def equilibrium(
        self,
        lr: np.ndarray,
        weight_decay: np.ndarray,
        momentum: np.ndarray,
        h: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Δ* and w*; NaN where none exists (λ = 0, mean h̃ < 0) or none is known."""
        angle, norm = np.full_like(lr, np.nan), np.full_like(lr, np.nan)
        known = theory.THEORIES.get(self.theory)
        if known is None:
            return angle, norm
        exists = (lr > 0) & (weight_decay > 0) & (weight_decay * lr < 2)
        angle[exists] = known.angular_update(
            lr[exists], weight_decay[exists], momentum[exists]
        )
        if known.norm_law:
            exists &= h >= 0
            norm[exists] = theory.equilibrium_norm(
                lr[exists], weight_decay[exists], h[exists], momentum[exists]
            )
        return angle, norm


class SGDReader(Reader):
    """SGD undoes itself: weights, gradients and buffers after the step suffice.

    It needs dampening 0 and no Nesterov.
    """

    theory = 'sgd'

    def tensors(self) -> Iterator[Layer]:
        """(u, g, v) of every layer after the step."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        for param, group in zip(self.params, self.groups, strict=True):
            grad = param.grad
            if grad is None:
                yield (torch.zeros_like(param),) * 3
                continue
            if groups[group].get('maximize'):
                grad = -grad
            # .get: indexing the optimizer's state would add an entry to it.
            buffer = state.get(param, {}).get('momentum_buffer')
            yield param, grad, grad if buffer is None else buffer

    def moments(self) -> Iterator[None]:
        """The first moment is v: nothing besides it."""
        return itertools.repeat(None, len(self.params))

    @staticmethod
    def step(rows: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor) -> Step:
        """The step, from w = u + ηv; without momentum v = (g + λu) / (1 − ηλ).

        Args:
            rows: Shape (iterations, layers, 7).
            lr: η, shape (iterations, layers); likewise ``weight_decay``, λ, and
                ``momentum``, α.

        Returns:
            The step, with h = ‖g‖² + 2α⟨v₋₁, g⟩ where αv₋₁ = v − g − λw.
        """
        uu, ug, uv, gg, gv, vv = (rows[..., i] for i in (WW, WG, WV, GG, GV, VV))
        plain = momentum == 0
        shrink = 1 - lr * weight_decay
        plain_uv = (ug + weight_decay * uu) / shrink
        plain_gv = (gg + weight_decay * ug) / shrink
        plain_vv = (gg + 2 * weight_decay * ug + weight_decay**2 * uu) / shrink**2
        uv = torch.where(plain, plain_uv, uv)
        gv = torch.where(plain, plain_gv, gv)
        vv = torch.where(plain, plain_vv, vv)
        wg = ug + lr * gv
        h = torch.where(plain, gg, 2 * (gv - weight_decay * wg) - gg)
        return Step(uu, lr * uv, lr**2 * vv, ug, gg, lr * gv, momentum_sq=vv, h=h)


class DisplacementReader(Reader):
    """Any other optimizer: the weights before the step are copied."""

    def __init__(
        self, optimizer: Optimizer, params: Sequence[nn.Parameter], groups: list[int]
    ) -> None:
        super().__init__(optimizer, params, groups)
        self._before = [torch.empty_like(param) for param in params]

    @torch.no_grad()
    def before_step(self) -> None:
        """Copy the weights."""
        if self._before:  # a rank that shares few layers with many may have none
            torch._foreach_copy_(self._before, list(self.params))

    def tensors(self) -> Iterator[Layer]:
        """(u, g, w − u) of every layer after the step."""
        return map(self._weight_grad_displacement, self.params, self._before)

    def moments(self) -> Iterator[Tensor | None]:
        """The optimizer's first moment of every layer, None where it has none."""
        for param in self.params:
            state = self.optimizer.state.get(param, {})
            yield state.get('exp_avg', state.get('momentum_buffer'))

    @torch.no_grad()
    def _weight_grad_displacement(self, param: nn.Parameter, before: Tensor) -> Layer:
        if param.grad is None:
            return (torch.zeros_like(param),) * 3
        wide = torch.promote_types(param.dtype, torch.float32)
        return param, param.grad, before.to(wide) - param.to(wide)

    @staticmethod
    def step(rows: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor) -> Step:
        """The step; ``h`` is NaN, being defined for SGD only."""
        uu, ug, ud, gg, gd, dd = (rows[..., i] for i in (WW, WG, WV, GG, GV, VV))
        h = torch.full_like(gg, torch.nan)
        return Step(uu, ud, dd, ug, gg, gd, momentum_sq=rows[..., MOMENT], h=h)


class AdamWReader(DisplacementReader):
    """AdamW: Δ* is known (Kosson et al.), w* is not."""

    theory = 'adamw'


# The readers of torch's optimizers; any other is read by copies, without theory.
READERS: dict[type[Optimizer], type[Reader]] = {SGD: SGDReader, AdamW: AdamWReader}


def reader_for(optimizer: Optimizer) -> type[Reader]:
    """The reader for an optimizer: by algebra where it is known, else by copies."""
    departures = ('nesterov', 'dampening', 'amsgrad')
    groups = optimizer.param_groups
    if any(group.get(key) for group in groups for key in departures):
        return DisplacementReader
    for kind, reader in READERS.items():
        # A subclass with a step of its own (LARS, say) is another optimizer.
        # torch wraps the step of a class when its first optimizer is made.
        step = inspect.unwrap(type(optimizer).step)
        if isinstance(optimizer, kind) and step is inspect.unwrap(kind.step):
            return reader
    return DisplacementReader


def settings_of(group: dict) -> tuple[float, float, float]:
    """(lr, weight decay, momentum) of a parameter group; β₁ counts as momentum."""
    momentum = group.get('momentum', group.get('betas', (0.0,))[0])
    return float(group['lr']), float(group.get('weight_decay', 0)), float(momentum)


def groups_of(optimizer: Optimizer, params: Iterable[nn.Parameter]) -> list[int | None]:
    """To which parameter group of an optimizer each parameter belongs.

    Args:
        optimizer: Any torch optimizer.
        params: The parameters to look up.

    Returns:
        For each parameter, in order, the index of its group in
        ``optimizer.param_groups``; None if the optimizer does not train it.

    Example:
        >>> first, second, other = (nn.Parameter(torch.ones(2)) for _ in range(3))
        >>> optimizer = SGD([{'params': [first]}, {'params': [second]}], lr=0.1)
        >>> groups_of(optimizer, [second, other, first])
        [1, None, 0]
    """
    index = {
        id(param): i
        for i, group in enumerate(optimizer.param_groups)
        for param in group['params']
    }
    return [index.get(id(param)) for param in params]
