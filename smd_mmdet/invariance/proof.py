"""Scale invariance by numbers: cosines of (w, g), and the loss under scaling."""

import dataclasses
import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from .arithmetic import DOUBLE, SINGLE, Precision
from .experiment import Experiment
from .undisturbed import kept_rng, untouched

__all__ = ['ScaleProof', 'verify_scale_invariance']

# A cosine by the ε that is this large is told, since the equations of the theory are
# right to some per cent themselves.
_NOTABLE_EPSILON = 1e-2
# One of these is drawn for each parameter when all are scaled together.
_FACTORS = (0.25, 0.5, 2.0, 4.0)
# A parameter that is scaled alone is scaled twice, since the loss may return to its
# value by accident once.
_ALONE = (0.25, 4.0)
# Up to this many parameters a forward pass for each costs next to nothing.
_FEW = 4


@dataclasses.dataclass(frozen=True)
class ScaleProof:
    """What numbers say about one parameter.

    Args:
        name: Dotted name of the parameter.
        verdict: True if the loss does not depend on the parameter's scale, False if
            it does, None if undecided.
        cosine: Cosine of the angle between weight and gradient, ⟨w, g⟩ / (‖w‖·‖g‖),
            with the norms' ε taken out. Lemma 1 says 0. NaN without a gradient.
        loss_change: Relative change of the loss when only this parameter is scaled;
            None if it was scaled together with the others only.
        joint_change: Relative change of the loss when this and all others that
            passed (or the half, quarter, ... of them that did) are scaled by random
            factors; None if this one did not pass.
        epsilon_cosine: The same cosine with the ε as configured. It tells how far the
            ε spoils the invariance.
        unit_gradient: ‖g‖·‖w‖, the norm of the gradient at ‖w‖ = 1, divided by the
            loss.
        reason: The figures that decide, in one sentence.

    Example:
        >>> import torch
        >>> from smd_mmdet.invariance import verify_scale_invariance
        >>> model, x = nn.Linear(4, 3), torch.randn(8, 4)
        >>> loss_fn = lambda copy: copy(x.to(copy.weight.dtype)).square().sum()
        >>> proof = verify_scale_invariance(model, loss_fn, ['weight'])['weight']
        >>> proof.verdict, proof.reason
        (False, 'cosine ..., scaling changes the loss by ... of it')
    """

    name: str
    verdict: bool | None
    cosine: float
    loss_change: float | None
    joint_change: float | None
    epsilon_cosine: float
    unit_gradient: float
    reason: str


def verify_scale_invariance(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], Tensor],
    names: Iterable[str],
    *,
    seed: int = 0,
    double: bool = True,
    alone: bool | None = None,
) -> dict[str, ScaleProof]:
    """Prove or refute by numbers that parameters are scale-invariant.

    Works on a copy of the model, moved slightly where parameters are constant
    (biases of 0, norm weights of 0 or 1), since those points are special. Two things
    are measured with the norms' ε made negligible: the cosine of (w, g), and the
    loss with the parameters multiplied by powers of two. The cosine with the true ε
    is given beside it.

    Args:
        model: The model, without a DDP wrapper; it is not touched. What ``loss_fn``
            or a wrapped forward changes in it is put back, with a warning.
        loss_fn: Takes a model, returns its scalar loss on fixed data. Random
            generators are seeded alike before every call, BN statistics restored
            after it.
        names: Names of parameters, candidates or any others.
        seed: Seed of the random generators, factors and displacement.
        double: Whether to compute in float64, if the model can; else it is float32,
            with the thresholds that this needs.
        alone: Whether to scale every parameter alone too (two forward passes for
            each). False: only where the other figures leave a doubt. None: also where
            there are few, or a few have failed.

    Returns:
        The proofs by name.

    Raises:
        ValueError: If a name is no parameter of the model, ``loss_fn`` returns no
            scalar tensor, or a function in the model keeps hold of it in a way that
            cannot be copied.

    Example:
        The loss function takes the model's precision, since the copy is in float64:

        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> x, y = torch.randn(8, 4), torch.randn(8, 3)
        >>> def loss_fn(copy):
        ...     return (copy(x.to(copy[0].weight.dtype)) - y).square().mean()
        >>> proofs = verify_scale_invariance(model, loss_fn, ['0.weight', '1.weight'])
        >>> [proof.verdict for proof in proofs.values()]
        [True, False]
        >>> abs(proofs['0.weight'].cosine) < 1e-6
        True
    """
    names = list(dict.fromkeys(names))
    known = dict(model.named_parameters(remove_duplicate=False))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f'the model has no parameter {unknown[0]!r}')
    if not names:
        return {}
    with kept_rng(), untouched(model), torch.inference_mode(False):
        if double:
            try:
                experiment = Experiment(model, loss_fn, names, seed, DOUBLE)
                return _Trial(experiment, seed, alone).proofs()
            except (RuntimeError, TypeError, NotImplementedError):
                # An operation that does not know float64. If the cause is another one,
                # float32 raises the same error again.
                pass
        experiment = Experiment(model, loss_fn, names, seed, SINGLE)
        return _Trial(experiment, seed, alone).proofs()


@dataclasses.dataclass
class _Figures:
    """What is measured of one parameter; see :class:`ScaleProof`.

    Args:
        cosine: Cosine of weight and gradient, with a negligible ε.
        unit_gradient: ‖g‖·‖w‖, divided by the loss.
        epsilon_cosine: The cosine with the ε as configured.
        loss_change: Relative change of the loss, scaled alone.
        joint_change: Relative change of the loss, scaled with others.
        by_epsilon: Whether only the ε lets the gradient through.
    """

    cosine: float
    unit_gradient: float
    epsilon_cosine: float = math.nan
    loss_change: float | None = None
    joint_change: float | None = None
    by_epsilon: bool = False


class _Trial:
    """All measurements that a proof takes, in one precision.

    Args:
        experiment: The copy of the model to measure on.
        seed: Seed of the factors.
        alone: Whether to scale every parameter alone too; see
            :func:`verify_scale_invariance`.
    """

    def __init__(self, experiment: Experiment, seed: int, alone: bool | None) -> None:
        self._experiment = experiment
        self._precision = experiment.precision
        self._seed = seed
        self._alone = alone
        self._loss, gradients = experiment.gradients()
        if not math.isfinite(self._loss):
            # Without ε a dead channel may divide 0 by 0.
            experiment.epsilon = None
            self._loss, gradients = experiment.gradients()
        self._figures = _measure(experiment, self._loss, gradients)

    def proofs(self) -> dict[str, ScaleProof]:
        """Measure what is left to measure, and weigh it."""
        if self._experiment.epsilon is not None:
            self._find_traces_of_epsilon()
        if math.isfinite(self._loss):
            self._scale()
        if self._experiment.epsilon is not None:
            self._measure_with_true_epsilon()
        return {
            name: _proof(name, figure, self._loss, self._precision)
            for name, figure in self._figures.items()
        }

    def _find_traces_of_epsilon(self) -> None:
        """Mark the gradients that exist by the ε alone: they shrink with it.

        A norm over two values, as on a map of one pixel and two images, gives ±1
        whatever they are. Only its ε lets a gradient through, and that has a cosine of
        its own.
        """
        # The size of such a gradient is the ratio of ε and variance, mostly small.
        faint = 1e3 * self._precision.loss if self._alone is False else math.inf
        doubtful = [
            name
            for name, figure in self._figures.items()
            if abs(figure.cosine) > self._precision.cosine
            and figure.unit_gradient < faint
        ]
        if not doubtful:
            return
        self._experiment.epsilon = self._precision.epsilon / 100
        smaller = _measure(self._experiment, *self._experiment.gradients())
        self._experiment.epsilon = self._precision.epsilon
        for name in doubtful:
            figure = self._figures[name]
            if smaller[name].unit_gradient < figure.unit_gradient / 10:
                figure.by_epsilon = True

    def _measure_with_true_epsilon(self) -> None:
        self._experiment.epsilon = None
        measured = _measure(self._experiment, *self._experiment.gradients())
        for name, figure in measured.items():
            self._figures[name].epsilon_cosine = figure.cosine

    def _scale(self) -> None:
        """Scale parameters alone and together, and note what the loss does."""
        precision = self._precision
        decidable = {
            name: figure
            for name, figure in self._figures.items()
            if figure.unit_gradient > precision.gradient and not figure.by_epsilon
        }
        clean = [n for n, f in decidable.items() if abs(f.cosine) <= precision.cosine]
        for name in self._to_scale_alone(decidable, clean):
            changes = [self._change({name: factor}) for factor in _ALONE]
            decidable[name].loss_change = max(changes)
        choose = random.Random(self._seed)
        self._scale_jointly({name: choose.choice(_FACTORS) for name in clean})

    def _to_scale_alone(
        self, decidable: Mapping[str, _Figures], clean: Collection[str]
    ) -> list[str]:
        if self._alone or (self._alone is None and len(self._figures) <= _FEW):
            return list(decidable)
        # A large cosine decides by itself; scaling only puts a second figure beside it.
        doubtful = [name for name in decidable if name not in clean]
        doubtful.sort(key=lambda name: abs(decidable[name].cosine))
        small = [
            name
            for name in doubtful
            if abs(decidable[name].cosine) <= self._precision.decisive
        ]
        least = 0 if self._alone is False else _FEW
        return doubtful[: max(least, len(small))]

    def _scale_jointly(self, factors: Mapping[str, float]) -> None:
        """Scale all together, and by halves where the loss moves, to find out why."""
        if not factors:
            return
        change = self._change(factors)
        names = list(factors)
        if change <= self._precision.loss:
            for name in names:
                self._figures[name].joint_change = change
        elif len(names) == 1:
            self._figures[names[0]].loss_change = change
        else:
            half = len(names) // 2
            for part in (names[:half], names[half:]):
                self._scale_jointly({name: factors[name] for name in part})

    def _change(self, factors: Mapping[str, float]) -> float:
        """Relative change of the loss when parameters are multiplied by factors."""
        scaled = self._experiment.scaled_loss(factors)
        return abs(scaled - self._loss) / max(abs(self._loss), 1e-300)


def _measure(
    experiment: Experiment, loss: float, gradients: Mapping[str, Tensor]
) -> dict[str, _Figures]:
    """Cosine and unit gradient of every parameter."""
    figures = {}
    for name, parameter in experiment.parameters.items():
        gradient = gradients.get(name)
        if gradient is None:
            figures[name] = _Figures(math.nan, 0.0)
            continue
        w, g = parameter.detach().double().flatten(), gradient.double().flatten()
        size = float(w.norm() * g.norm())
        cosine = float(w @ g) / size if size > 0 else math.nan
        figures[name] = _Figures(cosine, size / max(abs(loss), 1e-300))
    return figures


def _tolerance(precision: Precision, figure: _Figures) -> float:
    """Change of the loss that is allowed for one parameter scaled alone.

    A parameter with little influence is measured by its own influence on the loss,
    which is its unit gradient.
    """
    own = 1e-3 * figure.unit_gradient
    floor = 10 * torch.finfo(precision.dtype).eps
    return max(floor, min(precision.loss, own))


def _proof(
    name: str, figure: _Figures, loss: float, precision: Precision
) -> ScaleProof:
    verdict, reason = _verdict(figure, loss, precision)
    epsilon = figure.epsilon_cosine
    if verdict and abs(epsilon) > _NOTABLE_EPSILON:
        reason += f'; the ε of its norm matters: cosine {epsilon:.1e} with it'
    if precision.dtype == torch.float32:
        reason += ' (in float32)'
    return ScaleProof(
        name,
        verdict,
        figure.cosine,
        figure.loss_change,
        figure.joint_change,
        epsilon,
        figure.unit_gradient,
        reason,
    )


def _verdict(
    figure: _Figures, loss: float, precision: Precision
) -> tuple[bool | None, str]:
    """Weigh the figures of one parameter."""
    if not math.isfinite(loss):
        return None, 'undecided: the loss is not finite'
    if not figure.unit_gradient > precision.gradient:
        return None, 'undecided: no gradient reaches it'
    if figure.by_epsilon:
        return None, 'undecided: what gradient reaches it comes from the ε of its norm'
    cosine = f'cosine {figure.cosine:.1e}'
    straight = abs(figure.cosine) <= precision.cosine
    if figure.loss_change is None:
        if not straight:
            return False, cosine
        if figure.joint_change is None:
            return None, f'undecided: {cosine}'
        share = f'{figure.joint_change:.1e}'
        return True, f'{cosine}, joint scaling changes the loss by {share} of it'
    text = f'{cosine}, scaling changes the loss by {figure.loss_change:.1e} of it'
    still = figure.loss_change <= _tolerance(precision, figure)
    if straight or not still:
        return straight and still, text
    # A cosine that is real moves the loss in proportion.
    expected = abs(figure.cosine) * figure.unit_gradient
    if figure.loss_change < 1e-3 * expected:
        return True, f'{text}; the cosine is rounding'
    if abs(figure.cosine) <= precision.decisive:
        return None, f'undecided: its gradient is little more than rounding ({text})'
    return False, text
