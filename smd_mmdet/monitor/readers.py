"""How the motion of the weights is read off an optimizer's step.

A reader gives three tensors for every layer, whose six inner products are all that is
read of the weights, and a formula that turns these products into a :class:`.Step`.

To add an optimizer with algebra or theory of its own: add a reader here and name
it in :data:`READERS`; what is known of its equilibrium goes to :data:`.THEORIES`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer

from smd_mmdet import theory

from .kernels import GG, GV, VV, WG, WV, WW, Columns, RepeatedGram
from .quantities import QUANTITIES, Step
from .shards import is_part, local_of

__all__ = [
    'MOMENT',
    'READERS',
    'ROW',
    'AdamReader',
    'AdamWReader',
    'DisplacementReader',
    'LambReader',
    'LionReader',
    'NAdamReader',
    'NesterovReader',
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
        params: The parameters, by which the optimizer's state is looked up.
        theory: Whose equilibrium applies: a name in :data:`.THEORIES`, or 'none'.
        unknown: Quantities that it cannot tell, which are NaN at every step.
        before_step: What has to be done before a step; None if nothing has.
    """

    theory = 'none'
    unknown: frozenset[str] = frozenset()
    before_step: Callable[[], None] | None = None
    tensors: Callable[[Sequence[Tensor]], Columns]
    step: StepFormula

    def __init__(
        self, optimizer: Optimizer, params: Sequence[nn.Parameter], groups: list[int]
    ) -> None:
        self.optimizer = optimizer
        self.params = params
        self.groups = groups
        self._in_parts = any(map(is_part, params))
        # Stands for the moments of layers that have none, beside others that have.
        device = params[0].device if params else None
        self._no_moment = torch.full((), torch.nan, device=device)
        self._gram, self._norms = RepeatedGram(), RepeatedGram()

    def read(
        self, rows: Tensor, grads: Sequence[Tensor]
    ) -> tuple[Columns, Sequence[Tensor | None]]:
        """Pass over the weights after a step, and write a row for each layer.

        Args:
            rows: Shape (layers, 7), float64, overwritten: the inner products of the
                three tensors, and the squared norm of the first moment, which is left
                as it is where no layer has one.
            grads: Gradient of each layer; for a layer that has none, which is not
                counted, anything of its size.

        Returns:
            The three tensors, each of all layers, and the first moment of each layer.
        """
        columns, moments = self.tensors(self.held(grads)), self.held(self.moments())
        self._gram.write(columns, rows[:, :MOMENT])
        if any(moment is not None for moment in moments):
            present = [self._no_moment if m is None else m for m in moments]
            self._norms.squared_norms(present, rows[:, MOMENT])
        return columns, moments

    def held(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """What this rank holds of each tensor, where weights are sharded."""
        return local_of(tensors) if self._in_parts else tensors

    def moments(self) -> Sequence[Tensor | None]:
        """The optimizer's first moment of every layer, None where it is not needed."""
        return ()

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the quantities that it can tell, in order."""
        return tuple(name for name in QUANTITIES if name not in self.unknown)

    def formula(self, settings: Tensor) -> StepFormula:
        """The formula for steps of known settings.

        Args:
            settings: Learning rate, weight decay and momentum, shape (steps, layers,
                3), on the host.

        Returns:
            ``step``, or a function that gives the same with fewer operations.
        """
        return self.step

    @classmethod
    def for_groups(cls, groups: Sequence[Mapping[str, Any]]) -> type[Reader] | None:
        """The reader for an optimizer of this kind with these settings.

        Args:
            groups: The optimizer's parameter groups.

        Returns:
            This class or another one; None if no algebra covers the settings.
        """
        return cls

    def equilibrium(
        self,
        lr: np.ndarray,
        weight_decay: np.ndarray,
        momentum: np.ndarray,
        columns: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Angular update Δ* and weight norm w* of the equilibrium.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ, of the same shape.
            momentum: Momentum α, of the same shape.
            columns: What was measured, by name of the column, of the same shape: the
                mean of what drives the norm, and that of ‖g̃‖².

        Returns:
            Δ* and w*; NaN where none exists (λ = 0, or a mean of h̃ below 0) or none
            is known. The formulas are in :mod:`smd_mmdet.theory`.
        """
        angle, norm = np.full_like(lr, np.nan), np.full_like(lr, np.nan)
        known = theory.THEORIES.get(self.theory)
        if known is None:
            return angle, norm
        exists = (lr > 0) & (weight_decay > 0) & (weight_decay * lr < 2)
        settings = lr[exists], weight_decay[exists], momentum[exists]
        measured = {}
        if known.norm_law:
            drive = columns[f'{known.drive}_mean'][exists]
            norm[exists] = known.equilibrium_norm(
                settings[0], settings[1], drive, settings[2]
            )
            measured = dict(
                unit_grad_sq=columns['unit_grad_sq_mean'][exists], drive=drive
            )
        angle[exists] = np.sqrt(known.angular_update_sq(*settings, **measured))
        return angle, norm


class SGDReader(Reader):
    """SGD undoes itself: weights, gradients and buffers after the step suffice.

    With dampening d the step is that of SGD without it, of the rate η(1−d) and the
    buffer v/(1−d); see :func:`settings_of`.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SGD([weight], lr=0.5)
        >>> weight.grad = torch.tensor([0.0, 2.0])
        >>> optimizer.step()
        >>> rows = torch.zeros(1, ROW).double()
        >>> reader = SGDReader(optimizer, [weight], [0])
        >>> _ = reader.read(rows, [weight.grad])
        >>> lr, none = torch.tensor([0.5]), torch.zeros(1)
        >>> reader.step(rows, lr, none, none).ww  # of the weight before the step
        tensor([25.], dtype=torch.float64)
    """

    theory = 'sgd'
    unknown = frozenset(('update_sq', 'update_cosine'))

    @classmethod
    def for_groups(cls, groups: Sequence[Mapping[str, Any]]) -> type[Reader] | None:
        """Nesterov momentum has a reader of its own; a mixture of both has none."""
        nesterov = {bool(group.get('nesterov')) for group in groups}
        if len(nesterov) > 1:
            return None
        return NesterovReader if nesterov == {True} else SGDReader

    def tensors(self, grads: Sequence[Tensor]) -> Columns:
        """u, g and v of every layer after the step: weight, gradient and buffer."""
        params = self.params
        # .get: indexing the optimizer's state would add an entry to it.
        states = map(self.optimizer.state.get, params)
        v = [
            grad
            if state is None or (buffer := state.get('momentum_buffer')) is None
            else buffer
            for grad, state in zip(grads, states, strict=True)
        ]
        held = self.held(v)
        groups = self.optimizer.param_groups
        if any(_is_scaled(groups[index]) for index in set(self.groups)):
            of_layers = [groups[index] for index in self.groups]
            grads, held = _unscaled(grads, held, of_layers)
        return self.held(params), grads, held

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
        uu, ug, uv, gg, gv, vv = _products(rows)
        plain = momentum == 0
        shrink = 1 - lr * weight_decay
        plain_uv = (ug + weight_decay * uu) / shrink
        plain_gv = (gg + weight_decay * ug) / shrink
        plain_vv = (gg + 2 * weight_decay * ug + weight_decay**2 * uu) / shrink**2
        uv = torch.where(plain, plain_uv, uv)
        gv = torch.where(plain, plain_gv, gv)
        vv = torch.where(plain, plain_vv, vv)
        step = _sgd_step((uu, ug, uv, gg, gv, vv), lr, weight_decay)
        step.h = torch.where(plain, gg, step.h)
        return step

    @staticmethod
    def step_of_buffer(
        rows: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor
    ) -> Step:
        """What :meth:`step` gives where all momenta are above 0, in half the time.

        Args:
            rows: As for :meth:`step`, like the other three.
            lr: Learning rate.
            weight_decay: Weight decay.
            momentum: Momentum.
        """
        return _sgd_step(_products(rows), lr, weight_decay)

    def formula(self, settings: Tensor) -> StepFormula:
        """:meth:`step`, or what gives the same sooner."""
        with_buffer = type(self).step is SGDReader.step and bool(settings[..., 2].all())
        return self.step_of_buffer if with_buffer else self.step


class NesterovReader(SGDReader):
    """Nesterov momentum as torch writes it: w ← w − η(g + λw + αv), undone likewise.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SGD([weight], lr=0.5, momentum=0.5, nesterov=True)
        >>> weight.grad = torch.tensor([0.0, 2.0])
        >>> optimizer.step()  # by 0.5 · (2 + 0.5 · 2) along the second dimension
        >>> rows = torch.zeros(1, ROW).double()
        >>> reader = NesterovReader(optimizer, [weight], [0])
        >>> _ = reader.read(rows, [weight.grad])
        >>> settings = [torch.tensor([value]) for value in (0.5, 0.0, 0.5)]
        >>> step = reader.step(rows, *settings)
        >>> step.ww, step.dd
        (tensor([25.], dtype=torch.float64), tensor([2.2500], dtype=torch.float64))
    """

    theory = 'nesterov'

    @staticmethod
    def step(rows: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor) -> Step:
        """The step, from w = (u + ηg + ηαv) / (1 − ηλ).

        Args:
            rows: What :meth:`read` wrote; shape (steps, layers, 7).
            lr: Learning rate η, shape (steps, layers).
            weight_decay: Weight decay λ, shape (steps, layers).
            momentum: Momentum α, shape (steps, layers).

        Returns:
            The step, with h = ‖g‖² + 2α²⟨v₋₁, g⟩ where αv₋₁ = v − g − λw.
        """
        uu, ug, uv, gg, gv, vv = _products(rows)
        back = lr / (1 - lr * weight_decay)
        # What takes the step back is back · (g + αv + λu).
        ud = back * (ug + momentum * uv + weight_decay * uu)
        gd = back * (gg + momentum * gv + weight_decay * ug)
        vd = back * (gv + momentum * vv + weight_decay * uv)
        dd = back * (gd + momentum * vd + weight_decay * ud)
        wg = ug + gd
        h = gg + 2 * momentum * (gv - gg - weight_decay * wg)
        return Step(uu, ud, dd, ug, gg, gd, momentum_sq=vv, h=h)


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
        >>> _ = reader.read(rows, [weight.grad])
        >>> step = reader.step(rows, *torch.zeros(3, 1))
        >>> step.ww, step.dd
        (tensor([25.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """

    unknown = frozenset(('unit_h', 'update_sq', 'update_cosine'))

    def __init__(
        self, optimizer: Optimizer, params: Sequence[nn.Parameter], groups: list[int]
    ) -> None:
        super().__init__(optimizer, params, groups)
        self._before = [torch.empty_like(param) for param in self.held(params)]

    @torch.no_grad()
    def before_step(self) -> None:
        """Copy the weights."""
        if self._before:  # a rank that shares few layers with many may have none
            torch._foreach_copy_(self._before, list(self.held(self.params)))

    @torch.no_grad()
    def tensors(self, grads: Sequence[Tensor]) -> Columns:
        """u, g and w − u of every layer after the step."""
        params = self.held(self.params)
        kinds = {
            tensor.dtype for tensors in (params, self._before) for tensor in tensors
        }
        if kinds <= {torch.float32} or kinds <= {torch.float64}:
            # In place of the copies, which the next step makes anew.
            if self._before:
                torch._foreach_sub_(self._before, list(params))
            return params, grads, self._before
        return params, grads, list(map(_displacement, self._before, params))

    def moments(self) -> Sequence[Tensor | None]:
        """The optimizer's first moment of every layer, None where it has none."""
        states = map(self.optimizer.state.get, self.params)
        return [
            state and state.get('exp_avg', state.get('momentum_buffer'))
            for state in states
        ]

    @staticmethod
    def step(rows: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor) -> Step:
        """The step; ``h`` is NaN, being defined for SGD only.

        Args:
            rows: What :meth:`read` wrote; shape (steps, layers, 7).
            lr: Learning rate; like the two below it is not needed here.
            weight_decay: Weight decay.
            momentum: Momentum.
        """
        uu, ug, ud, gg, gd, dd = _products(rows)
        h = torch.full_like(gg, torch.nan)
        return Step(uu, ud, dd, ug, gg, gd, momentum_sq=rows[..., MOMENT], h=h)


class AdamWReader(DisplacementReader):
    """AdamW: what is left of a step without its decay is the update m̂/√v̂.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = AdamW([weight], lr=0.5, weight_decay=0.1)
        >>> weight.grad = torch.tensor([0.0, 2.0])
        >>> reader = AdamWReader(optimizer, [weight], [0])
        >>> reader.before_step()
        >>> optimizer.step()  # decays by 1/20, and takes 0.5 off the second number
        >>> rows = torch.zeros(1, ROW).double()
        >>> _ = reader.read(rows, [weight.grad])
        >>> settings = [torch.tensor([value]) for value in (0.5, 0.1, 0.9)]
        >>> reader.step(rows, *settings).update_sq.round(decimals=5)
        tensor([1.], dtype=torch.float64)
    """

    theory = 'adamw'
    unknown = frozenset(('unit_h',))

    @classmethod
    def for_groups(cls, groups: Sequence[Mapping[str, Any]]) -> type[Reader] | None:
        """None where v̂ is a maximum."""
        return None if any(group.get('amsgrad') for group in groups) else cls

    @staticmethod
    def step(rows: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor) -> Step:
        """The step, and the update (w − u)/η − λw within it.

        Args:
            rows: What :meth:`read` wrote; shape (steps, layers, 7).
            lr: Learning rate η, shape (steps, layers).
            weight_decay: Decoupled weight decay λ, shape (steps, layers).
            momentum: β₁; it is not needed here.
        """
        step = DisplacementReader.step(rows, lr, weight_decay, momentum)
        wd, decay = step.ud + step.dd, lr * weight_decay
        moved = step.dd - 2 * decay * wd + decay**2 * step.ww
        # At a rate of 0 nothing tells of the update.
        rate = torch.where(lr > 0, lr, torch.inf)
        step.update_sq = moved.clamp_min(0) / rate**2
        step.update_along = (wd - decay * step.ww) / rate
        return step


class NAdamReader(AdamWReader):
    """NAdam with decoupled decay, whose step is taken apart as that of AdamW.

    The law is that of a constant β₁. Torch lets half of it grow in by
    1 − 0.96^(t·momentum_decay)/2.
    """

    theory = 'nadamw'

    @classmethod
    def for_groups(cls, groups: Sequence[Mapping[str, Any]]) -> type[Reader] | None:
        """None where decay is added to the gradient, or β₁ takes too long to settle."""
        covered = all(
            group.get('decoupled_weight_decay')
            # Settled within 2 % after a thousand iterations.
            and group.get('momentum_decay', 0) >= 0.1
            for group in groups
        )
        return cls if covered else None


class LionReader(AdamWReader):
    """Lion, whose update is a sign; the law is that of β₂ = 0.99."""

    theory = 'lion'

    @classmethod
    def for_groups(cls, groups: Sequence[Mapping[str, Any]]) -> type[Reader] | None:
        """None for another β₂, of which the records would not tell."""
        usual = all(tuple(group.get('betas', ()))[1:] == (0.99,) for group in groups)
        return cls if usual else None


class LambReader(DisplacementReader):
    """LAMB, whose step is as long as the weight times the learning rate."""

    theory = 'lamb'

    @classmethod
    def for_groups(cls, groups: Sequence[Mapping[str, Any]]) -> type[Reader] | None:
        """None where the step is shorter: without decay, or with a clipped ratio."""
        whole = all(
            (group.get('weight_decay') or group.get('always_adapt'))
            and not group.get('trust_clip')
            for group in groups
        )
        return cls if whole else None


class AdamReader(DisplacementReader):
    """Adam whose decay is added to the gradient; each layer has a Δ* of its own."""

    theory = 'adam'

    @classmethod
    def for_groups(cls, groups: Sequence[Mapping[str, Any]]) -> type[Reader] | None:
        """AdamW's reader where decay is decoupled; None where v̂ is a maximum."""
        decoupled = {bool(group.get('decoupled_weight_decay')) for group in groups}
        if any(group.get('amsgrad') for group in groups) or len(decoupled) > 1:
            return None
        return AdamWReader if decoupled == {True} else cls

    def equilibrium(
        self,
        lr: np.ndarray,
        weight_decay: np.ndarray,
        momentum: np.ndarray,
        columns: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Δ* and w* of each layer, from its size and ‖g̃‖; see the base class."""
        angle, norm = np.full_like(lr, np.nan), np.full_like(lr, np.nan)
        grad = np.sqrt(columns['unit_grad_sq_mean'])
        exists = (lr > 0) & (weight_decay > 0) & (grad > 0) & np.isfinite(grad)
        sizes = [math.prod(shape) for shape in columns['shape']]
        size = np.array(sizes, dtype=np.float64)[exists]
        rate, beta1 = lr[exists], momentum[exists]
        norm[exists] = theory.adam_equilibrium_norm(
            rate, weight_decay[exists], grad[exists], size
        )
        angle[exists] = theory.adam_angular_update(rate, beta1, norm[exists], size)
        return angle, norm


# The readers of optimizers, by class, or by name where torch does not have them; any
# other is read by copies, without theory. A class comes before those that it extends.
READERS: dict[type[Optimizer] | str, type[Reader]] = {
    SGD: SGDReader,
    AdamW: AdamWReader,
    Adam: AdamReader,
    NAdam: NAdamReader,
    'Lamb': LambReader,
    'LAMB': LambReader,
    'Lion': LionReader,
}


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
        'nesterov'
        >>> reader_for(torch.optim.RMSprop([weight], lr=0.1)).theory
        'none'
    """
    kind = type(optimizer)
    # A subclass with a step of its own (LARS, say) is another optimizer. torch wraps
    # the step of a class when its first optimizer is made.
    step = inspect.unwrap(kind.step)
    for known, reader in READERS.items():
        if known == kind.__name__ or (
            isinstance(known, type)
            and isinstance(optimizer, known)
            and step is inspect.unwrap(known.step)
        ):
            return reader.for_groups(optimizer.param_groups) or DisplacementReader
    return DisplacementReader


def settings_of(group: Mapping[str, Any]) -> tuple[float, float, float]:
    """The settings that the theory needs of a parameter group.

    Args:
        group: One of an optimizer's ``param_groups``.

    Returns:
        Learning rate, weight decay and momentum; β₁ of Adam and its kin counts as
        momentum, and what the optimizer does not have is 0. With dampening d the
        learning rate is η(1−d), the rate of SGD without dampening that steps alike.

    Example:
        >>> optimizer = AdamW([nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.05)
        >>> settings_of(optimizer.param_groups[0])
        (0.1, 0.05, 0.9)
    """
    momentum = group.get('momentum', group.get('betas', (0.0,))[0])
    lr = float(group['lr']) * _undampened(group)
    return lr, float(group.get('weight_decay', 0)), float(momentum)


def _undampened(group: Mapping[str, Any]) -> float:
    """The share 1 − d of the gradient that dampening lets into the momentum buffer."""
    return 1 - float(group.get('dampening', 0)) if group.get('momentum') else 1.0


def _sgd_step(products: tuple[Tensor, ...], lr: Tensor, weight_decay: Tensor) -> Step:
    """The step of SGD with a buffer."""
    uu, ug, uv, gg, gv, vv = products
    step = Step(uu, lr * uv, lr**2 * vv, ug, gg, lr * gv, momentum_sq=vv, h=gg)
    step.h = 2 * (gv - weight_decay * step.wg) - gg
    return step


def _products(rows: Tensor) -> tuple[Tensor, ...]:
    """⟨u,u⟩, ⟨u,g⟩, ⟨u,v⟩, ⟨g,g⟩, ⟨g,v⟩ and ⟨v,v⟩, each of all steps and layers."""
    # Laid out one after another: twenty formulas read them.
    columns = rows.movedim(-1, 0).contiguous().unbind()
    return tuple([columns[i] for i in (WW, WG, WV, GG, GV, VV)])


def _is_scaled(group: Mapping[str, Any]) -> bool:
    """Whether SGD turns gradients round or dampens them."""
    return bool(group.get('maximize') or group.get('dampening'))


@torch.no_grad()
def _unscaled(
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    groups: Sequence[Mapping[str, Any]],
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients and buffers of SGD without ``maximize`` and dampening."""
    unscaled = []
    for grad, buffer, group in zip(grads, buffers, groups, strict=True):
        turned = -grad if group.get('maximize') else grad
        if buffer is grad:  # there is none
            unscaled.append((turned, turned))
        else:
            kept = _undampened(group)
            unscaled.append((turned, buffer if kept == 1 else buffer / kept))
    return [grad for grad, _ in unscaled], [buffer for _, buffer in unscaled]


def _displacement(before: Tensor, param: Tensor) -> Tensor:
    wide = torch.promote_types(param.dtype, torch.float32)
    return before.to(wide) - param.to(wide)


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
