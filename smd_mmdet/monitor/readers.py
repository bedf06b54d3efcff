"""How the motion of the weights is read off an optimizer's step.

A reader gives three tensors for every layer, whose six inner products are all that is
read of the weights, and a formula that turns these products into a :class:`.Step`.

To add an optimizer with algebra or theory of its own: add a reader here and name
it in :data:`READERS`; what is known of its equilibrium goes to :data:`.THEORIES`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from smd_mmdet import theory

from .kernels import GG, GV, VV, WG, WV, WW, gram, squared_norms
from .kernels.layout import Layer
from .quantities import Step

__all__ = [
    'MOMENT',
    'READERS',
    'ROW',
    'AdamWReader',
    'DisplacementReader',
    'Reader',
    'SGDReader',
    'StepFormula',
    'groups_of',
    'reader_for',
    'settings_of',
]

# A row of what is read of a layer: the six inner products, and the squared norm of
# the optimizer's first moment.
ROW = 7
MOMENT = 6

# From rows, learning rates, weight decays and momenta to the step: ``Reader.step``.
StepFormula = Callable[[Tensor, Tensor, Tensor, Tensor], Step]


class Reader:
    """What the readers share.

    A reader has three more methods: ``tensors`` gives the three tensors of every
    layer after the step, ``moments`` the optimizer's first moment of every layer (None
    where it is one of the three, or there is none), and ``step`` the formula.

    Args:
        optimizer: The optimizer whose steps are read.
        params: The measured parameters.
        groups: Index of each one's parameter group.

    Attributes:
        theory: Whose equilibrium applies: a name in :data:`.THEORIES`, or 'none'.
        before_step: What has to be done before a step; None if nothing has.
    """

    theory = 'none'
    before_step: Callable[[], None] | None = None
    tensors: Callable[[], Iterator[Layer]]
    moments: Callable[[], Iterator[Tensor | None]]
    step: StepFormula

    def __init__(
        self, optimizer: Optimizer, params: Sequence[nn.Parameter], groups: list[int]
    ) -> None:
        self.optimizer = optimizer
        self.params = params
        self.groups = groups
        # Stands for the moments of layers that have none, beside others that have.
        device = params[0].device if params else None
        self._no_moment = torch.full((), torch.nan, device=device)

    def read(self, rows: Tensor) -> tuple[list[Layer], list[Tensor | None]]:
        """Pass over the weights after a step, and write a row for each layer.

        Args:
            rows: Shape (layers, 7), float64, overwritten: the inner products of the
                three tensors, and the squared norm of the first moment, which is left
                as it is where no layer has one.

        Returns:
            The three tensors and the first moment of each layer.
        """
        layers, moments = list(self.tensors()), list(self.moments())
        gram(layers, rows[:, :MOMENT])
        if any(moment is not None for moment in moments):
            present = [self._no_moment if m is None else m for m in moments]
            squared_norms(present, rows[:, MOMENT])
        return layers, moments

    def equilibrium(
        self,
        lr: np.ndarray,
        weight_decay: np.ndarray,
        momentum: np.ndarray,
        h: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Angular update Δ* and weight norm w* of the equilibrium.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ, of the same shape.
            momentum: Momentum α, of the same shape.
            h: Mean of h̃ = ‖w‖²h, of the same shape.

        Returns:
            Δ* and w*; NaN where none exists (λ = 0, or the mean of h̃ below 0) or none
            is known. The formulas are in :mod:`smd_mmdet.theory`.
        """
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

    It needs dampening 0 and no Nesterov momentum.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SGD([weight], lr=0.5)
        >>> weight.grad = torch.tensor([0.0, 2.0])
        >>> optimizer.step()
        >>> rows = torch.zeros(1, ROW).double()
        >>> reader = SGDReader(optimizer, [weight], [0])
        >>> _ = reader.read(rows)
        >>> lr, none = torch.tensor([0.5]), torch.zeros(1)
        >>> reader.step(rows, lr, none, none).ww  # of the weight before the step
        tensor([25.], dtype=torch.float64)
    """

    theory = 'sgd'

    def tensors(self) -> Iterator[Layer]:
        """(u, g, v) of every layer after the step: weight, gradient and buffer."""
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
        """None of every layer: the first moment is v, one of the three tensors."""
        return itertools.repeat(None, len(self.params))

    @staticmethod
    def step(rows: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor) -> Step:
        """The step, from w = u + ηv; without momentum v = (g + λu) / (1 − ηλ).

        Args:
            rows: What :meth:`read` wrote; shape (steps, layers, 7).
            lr: Learning rate η, shape (steps, layers).
            weight_decay: Weight decay λ, shape (steps, layers).
            momentum: Momentum α, shape (steps, layers).

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
    """Any other optimizer: the weights before the step are copied.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.Adagrad([weight], lr=1.0)
        >>> weight.grad = torch.tensor([0.0, 2.0])
        >>> reader = DisplacementReader(optimizer, [weight], [0])
        >>> reader.before_step()
        >>> optimizer.step()
        >>> rows = torch.zeros(1, ROW).double()
        >>> _ = reader.read(rows)
        >>> step = reader.step(rows, *torch.zeros(3, 1))
        >>> step.ww, step.dd
        (tensor([25.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """

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
        """The step; ``h`` is NaN, being defined for SGD only.

        Args:
            rows: What :meth:`read` wrote; shape (steps, layers, 7).
            lr: Learning rate; like the two below it is not needed here.
            weight_decay: Weight decay.
            momentum: Momentum.
        """
        uu, ug, ud, gg, gd, dd = (rows[..., i] for i in (WW, WG, WV, GG, GV, VV))
        h = torch.full_like(gg, torch.nan)
        return Step(uu, ud, dd, ug, gg, gd, momentum_sq=rows[..., MOMENT], h=h)


class AdamWReader(DisplacementReader):
    """AdamW: Δ* is known (Kosson et al., 2023), w* is not."""

    theory = 'adamw'


# The readers of torch's optimizers; any other is read by copies, without theory.
READERS: dict[type[Optimizer], type[Reader]] = {SGD: SGDReader, AdamW: AdamWReader}


def reader_for(optimizer: Optimizer) -> type[Reader]:
    """The reader for an optimizer: by algebra where it is known, else by copies.

    Args:
        optimizer: Any torch optimizer.

    Returns:
        A class in :data:`READERS`; :class:`DisplacementReader` where the optimizer is
        none of these, takes another step than its class, or has a setting that its
        algebra does not cover.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> reader_for(SGD([weight], lr=0.1, momentum=0.9)).theory
        'sgd'
        >>> reader_for(SGD([weight], lr=0.1, momentum=0.9, nesterov=True)).theory
        'none'
    """
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


def settings_of(group: Mapping[str, Any]) -> tuple[float, float, float]:
    """The settings that the theory needs of a parameter group.

    Args:
        group: One of an optimizer's ``param_groups``.

    Returns:
        Learning rate, weight decay and momentum; β₁ of Adam and its kin counts as
        momentum, and what the optimizer does not have is 0.

    Example:
        >>> optimizer = AdamW([nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.05)
        >>> settings_of(optimizer.param_groups[0])
        (0.1, 0.05, 0.9)
    """
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
