"""An independent truth: a scale-invariant weight under an optimizer, step by step.

The loss depends on the direction of w only, so its gradient is tangential and
g = g̃/‖w‖ with a unit gradient g̃ whose law is set here. No equation of smd_mmdet is
used; the weights really move, in float64, and every quantity is computed from them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from zoo_walks import Stepper, adam, lamb, lion, sgd

from smd_mmdet.checks import FAILS, Report, StageReport
from smd_mmdet.records import Records, to_table

QUANTITIES = (
    *('weight_norm', 'grad_norm', 'unit_grad_sq', 'unit_h'),
    *('angular_update', 'cosine', 'momentum_norm', 'update_sq', 'update_cosine'),
)
# So many runs at a time keep what is in use small enough for the caches.
SIDE_BY_SIDE = 20
CLIPPING = ('clipped_share', 'clip_coefficient_mean', 'applied')


# Of a momentum, or β₁, the optimizer; v̂ forgets within some hundred iterations.
OPTIMIZERS: dict[str, Callable[[float], Stepper]] = {
    'sgd': sgd,
    'nesterov': lambda momentum: sgd(momentum, nesterov=True),
    'adamw': lambda beta: adam(beta, 0.99),
    'nadamw': lambda beta: adam(beta, 0.99, nesterov=True),
    'adam': lambda beta: adam(beta, 0.99, decoupled=False),
    'lion': lion,
    'lamb': lambda beta: lamb(beta, 0.99),
}


def noise_of(optimizer: str, a: float) -> float:
    """Δ*²/(2λη) of an optimizer for gradients without correlation in time."""
    if optimizer == 'nesterov':
        return (1 + 2 * a - 2 * a**3) / (1 + a)
    if optimizer == 'nadamw':
        return (1 - a) ** 2 * ((1 + a) ** 2 + a**4 / (1 - a**2))
    if optimizer == 'lion':
        return np.pi / 2 * ((1 - a) ** 2 + a**2 * 0.01 / 1.99)
    return 1 / (1 + a) if optimizer == 'sgd' else (1 - a) / (1 + a)


def norm_of(
    optimizer: str, lr: float, decay: float, a: float, drive: float, size: int = 0
) -> float:
    """w* of what drives the norm; NaN where that is negative, or there is no w*."""
    if optimizer == 'lamb':
        return np.nan
    if optimizer == 'adam':
        return (lr * np.sqrt(size * drive) / (2 * decay)) ** (1 / 3)
    if optimizer not in ('sgd', 'nesterov'):
        return np.sqrt(lr * drive / (2 * decay * noise_of(optimizer, a)))
    second = decay * lr / (1 + a) if a and optimizer == 'sgd' else 0.0
    fourth = lr * drive / (decay * (1 - a) * (2 - second))
    return fourth**0.25 if fourth >= 0 else np.nan


@dataclass
class Walk:
    """A random walk of ``layers`` independent weights.

    Args:
        lr: Learning rate η, one entry per iteration.
        weight_decay: Weight decay λ.
        momentum: Momentum α.
        norm: Norm ‖w‖ at the start; None for the equilibrium of the first rate.
        size: How many numbers a weight has.
        layers: How many independent weights there are.
        seed: Seed of the random numbers.
        unit_grad_sq: Mean L of ‖g̃‖², a number or one entry per iteration.
        noise: Variance of ‖g̃‖²/L, drawn log-normal; or a function (rng, layers)
            -> factors of mean 1.
        radial: Share of the gradient along w; 0 is scale-invariant.
        correlation: Correlation of a gradient with the one before; a negative one
            makes h̃ negative.
        rescale: Whether weights are divided by k^(1/4) when the rate is divided by k.
        optimizer: A key of :data:`OPTIMIZERS`; ``momentum`` is β₁ of an adaptive one.
        max_norm: Limit on the gradient's norm, over all layers together, in units of
            √layers: about the limit on that of a single one.
        unequal: By how many powers of ten the sizes of a gradient's numbers differ.
        runs: Of how many runs the layers are; all of one run are clipped together.
    """

    lr: np.ndarray
    weight_decay: float
    momentum: float = 0.0
    norm: float | None = None
    size: int = 32
    layers: int = 1
    seed: int = 0
    unit_grad_sq: float | np.ndarray = 1.0
    noise: float | Callable = 0.2
    radial: float | np.ndarray = 0.0
    correlation: float = 0.0
    rescale: bool = False
    optimizer: str = 'sgd'
    max_norm: float = np.inf
    unequal: float = 0.0
    runs: int = 1
    series: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.lr = np.asarray(self.lr, float)
        self.steps = len(self.lr)
        self.unit_grad_sq = np.broadcast_to(
            np.asarray(self.unit_grad_sq, float), self.steps
        )
        self.radial = np.broadcast_to(np.asarray(self.radial, float), self.steps)
        if self.norm is None:
            settings = self.lr[0], self.weight_decay, self.momentum
            drive = float(self.unit_grad_sq[0])
            if self.optimizer in ('adamw', 'nadamw'):
                drive = self.size * noise_of(self.optimizer, self.momentum)
            if self.optimizer == 'lion':
                drive = float(self.size)
            norm = norm_of(self.optimizer, *settings, drive, self.size)
            self.norm = 1.0 if np.isnan(norm) else norm
        self._run()

    def _factors(self, rng: np.random.Generator) -> np.ndarray:
        if callable(self.noise):
            return self.noise(rng, self.layers)
        sigma_sq = np.log1p(self.noise)
        return rng.lognormal(-sigma_sq / 2, np.sqrt(sigma_sq), self.layers)

    def _run(self) -> None:
        rng = np.random.default_rng(self.seed)
        w = rng.standard_normal((self.layers, self.size))
        w *= self.norm / np.linalg.norm(w, axis=1, keepdims=True)
        step = OPTIMIZERS[self.optimizer](self.momentum)
        if self.unequal:
            scales = 10 ** rng.uniform(-self.unequal, 0, w.shape)
        state: dict = {}
        v = last = np.zeros_like(w)
        names = (*QUANTITIES, *CLIPPING)
        out = {name: np.full((self.steps, self.layers), np.nan) for name in names}
        for t, eta in enumerate(self.lr):
            if self.rescale and t and eta < self.lr[t - 1]:
                c = (self.lr[t - 1] / eta) ** -0.25
                w, v = w * c, v / c
                if 'v' in state:
                    state['v'] = v
            ww = _dot(w, w)
            norm = np.sqrt(ww)
            fresh = rng.standard_normal(w.shape, np.float32).astype(float)
            direction = _tangential(fresh * scales if self.unequal else fresh, w, ww)
            if self.correlation:
                direction += self.correlation * last
                direction = _tangential(direction, w, ww)
            last = direction
            if self.radial[t]:
                share = self.radial[t]
                along = share * w / norm[:, None]
                direction = np.sqrt(1 - share**2) * direction + along
            size = np.sqrt(self.unit_grad_sq[t] * self._factors(rng)) / norm
            # Of each run, all layers together.
            total = np.sqrt((size * size).reshape(self.runs, -1).mean(1))
            clipping = np.minimum(1.0, self.max_norm / (total + 1e-6))
            coefficient = np.repeat(clipping, self.layers // self.runs)
            g = direction * (size * coefficient)[:, None]
            gg = _dot(g, g)
            share = self.momentum ** (2 if self.optimizer == 'nesterov' else 1)
            h = gg + 2 * share * _dot(v, g)
            u = step(g, w, float(eta), self.weight_decay, state)
            v = state.get('v', state.get('m', v))
            cross = _dot(u, w)
            across = u - w * (cross / ww)[:, None]
            out['weight_norm'][t] = norm
            out['grad_norm'][t] = np.sqrt(gg)
            out['unit_grad_sq'][t] = gg * ww
            out['unit_h'][t] = h * ww if 'v' in state else np.nan
            out['clipped_share'][t] = coefficient < 1
            out['clip_coefficient_mean'][t] = coefficient
            out['applied'][t] = (total * clipping).repeat(self.layers // self.runs) ** 2
            out['angular_update'][t] = np.arctan2(
                np.sqrt(_dot(across, across)) * norm, cross
            )
            # No gradient is orthogonal to everything.
            scale = np.sqrt(ww * np.where(gg > 0, gg, 1.0))
            out['cosine'][t] = _dot(w, g) / scale
            out['momentum_norm'][t] = np.sqrt(_dot(v, v))
            if 'update' in state:
                moved = state['update']
                out['update_sq'][t] = _dot(moved, moved)
                cosine = _dot(w, moved) / np.sqrt(ww * out['update_sq'][t])
                out['update_cosine'][t] = cosine
            w = u
        self.series = out


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of rows."""
    return np.einsum('ij,ij->i', a, b)


def _tangential(direction: np.ndarray, w: np.ndarray, ww: np.ndarray) -> np.ndarray:
    """The part across w, of length 1."""
    direction = direction - w * (_dot(direction, w) / ww)[:, None]
    direction /= np.sqrt(_dot(direction, direction))[:, None]
    return direction


def records_of(
    walk: Walk,
    window: int = 50,
    weight_decay: float | None = None,
    momentum: float | None = None,
    metadata: dict | None = None,
    run: int = 0,
) -> Records:
    """The records a monitor would have written of a walk.

    Args:
        walk: The walk.
        window: How many iterations a window has.
        weight_decay: Weight decay that the records claim; None for the true one.
        momentum: Momentum that the records claim; None for the true one.
        metadata: Facts to add to the records' metadata.
        run: Which of the walk's runs.
    """
    each = walk.layers // walk.runs
    decay = walk.weight_decay if weight_decay is None else weight_decay
    alpha = walk.momentum if momentum is None else momentum
    stages, starts = _stages(walk.lr)
    ends = []
    for start, end in zip(starts, [*starts[1:], walk.steps], strict=True):
        ends += [*range(start + window, end, window), end]
    rows: dict[str, list] = {}
    begin = 0
    for end in ends:
        lr = float(walk.lr[begin:end].mean())
        if np.ptp(walk.lr[begin:end]) == 0:
            lr = float(walk.lr[begin])
        for number in range(each):
            layer = run * each + number
            row = dict(iter=end, count=end - begin, layer=f'layer{number}')
            row.update(shape=[walk.size], lr=lr, weight_decay=decay, momentum=alpha)
            row['stage'] = int(stages[begin])
            for name in QUANTITIES:
                part = walk.series[name][begin:end, layer]
                row[f'{name}_mean'], row[f'{name}_var'] = part.mean(), part.var()
                row[f'{name}_min'], row[f'{name}_max'] = part.min(), part.max()
            clipped, coefficient, applied = (
                walk.series[name][begin:end, layer] for name in CLIPPING
            )
            row['clipped_share'] = clipped.mean()
            row['clip_coefficient_mean'] = coefficient.mean()
            row['clipping_power'] = 2 * (clipped * applied).sum() / applied.sum()
            quantity = 'update_sq' if np.isnan(row['unit_h_mean']) else 'unit_h'
            drive, optimizer = row[f'{quantity}_mean'], walk.optimizer
            if optimizer == 'adam':
                drive = row['unit_grad_sq_mean']
            norm = norm_of(optimizer, lr, decay, alpha, drive, walk.size)
            row['weight_norm_eq'] = norm
            angle_sq = 2 * decay * lr * noise_of(optimizer, alpha)
            if optimizer == 'lamb':
                angle_sq = lr**2
            if optimizer == 'adam':
                angle_sq = lr**2 * walk.size * (1 - alpha) / ((1 + alpha) * norm**2)
            row['angular_update_eq'] = np.sqrt(angle_sq)
            for key, value in row.items():
                rows.setdefault(key, []).append(value)
        begin = end
    facts = {'schema_version': 1, 'theory': walk.optimizer, 'window': window}
    table: pa.Table = to_table(rows)
    return Records(table, facts | (metadata or {}))


def _stages(lr: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Stage number of each iteration and where stages start, as a reader would."""
    change = np.diff(lr) != 0
    moving = np.zeros(len(lr), bool)
    moving[:-1] = change
    run = np.concatenate([[False], change])
    # An iteration is steady if its rate is that of a neighbour.
    same_before = np.concatenate([[False], ~change])
    same_after = np.concatenate([~change, [False]])
    steady = same_before | same_after
    new = np.concatenate([[True], (steady[1:] != steady[:-1]) | (steady[1:] & run[1:])])
    number = np.cumsum(new) - 1
    if len(lr) > 1 and not steady[0] and lr[1] > lr[0]:
        number -= 1
    return number, np.flatnonzero(new).tolist()


# ------------------------------------------------------------------ small walks

LR, DECAY, MOMENTUM = 0.05, 3e-3, 0.9


def small_walk(steps: int = 1200, **changes) -> Walk:
    """A walk of two layers at their equilibrium, unless the changes say otherwise."""
    settings = dict(lr=np.full(steps, LR), weight_decay=DECAY, momentum=MOMENTUM)
    return Walk(**(settings | dict(layers=2) | changes))


def with_columns(records: Records, **columns) -> Records:
    """The records with other values in some columns."""
    table = records.table
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, pa.array(values))
    return Records(table, records.metadata)


def last_stages(report: Report) -> list[StageReport]:
    """What each layer did in its last stage."""
    return [layer.stages[-1] for layer in report.layers]


def failing(stage: StageReport, kind: str) -> set[str]:
    """Names of the checks of a kind ('assumption', 'conclusion') that fail."""
    return {c.name for c in stage.checks if c.verdict == FAILS and c.kind == kind}


# ------------------------------------------------------------------ scenarios


def pareto(rng: np.random.Generator, layers: int) -> np.ndarray:
    """Factors of mean 1 without a variance."""
    index = 1.1
    return (rng.pareto(index, layers) + 1) * (index - 1) / index


def often_nothing(rng: np.random.Generator, layers: int) -> np.ndarray:
    """No gradient in one iteration of ten; variance 1/9."""
    return (rng.random(layers) > 0.1) / 0.9


@dataclass(frozen=True)
class Scenario:
    """A kind of walk, what its records claim, and what a check should say.

    Args:
        settings: Arguments of the walk, besides layers and seed.
        claims: Arguments of :func:`records_of`, besides the walk.
        assumptions: The assumptions that fail; None where that is not asked.
        diagnosis: The conclusion that fails and explains the others, or ''.
        state: State of every layer at the end; '' where it does not matter.
    """

    settings: dict
    claims: dict = field(default_factory=dict)
    assumptions: frozenset[str] | None = frozenset()
    diagnosis: str = ''
    state: str = ''


def _base(**changes) -> dict:
    usual = dict(lr=np.full(3000, 0.05), weight_decay=2e-3, momentum=0.8)
    return usual | dict(size=384, noise=0.05) | changes


def _adamw(**changes) -> dict:
    usual = dict(lr=np.full(3000, 1e-3), weight_decay=0.2, momentum=0.9)
    return usual | dict(size=384, noise=0.05, optimizer='adamw') | changes


_STEP = np.repeat([0.05, 0.005], [1500, 1500])
_WARM = np.concatenate([np.linspace(1e-3, 0.05, 300), np.full(2700, 0.05)])
_COSINE = 0.025 * (1 + np.cos(np.linspace(0, 3.1, 3000)))
_FALLING = np.concatenate([np.ones(2000), np.linspace(1.6, 0.4, 1000) ** 2])
_LEAKS = dict(radial=np.linspace(0, 0.5, 3000) ** 2)

_DETECTOR = dict(
    lr=np.concatenate([np.linspace(1e-3, 0.05, 50), np.full(1450, 0.05)]),
    **dict(weight_decay=5e-3, momentum=0.9, norm=6.0, size=128, noise=30.0),
    unit_grad_sq=1 + 4 * np.exp(-np.arange(1500) / 300),
)

OBEYING = {
    'momentum 0.8': Scenario(_base()),
    # Many numbers: ⟨v, g⟩ of few would take h̃ under its bound, high at 0.9.
    'momentum 0.9': Scenario(_base(momentum=0.9, weight_decay=1e-3, size=1024)),
    'no momentum': Scenario(
        _base(lr=np.full(3000, 0.5), momentum=0.0), state='in equilibrium'
    ),
    # Such noise has no variance one could estimate, and gradients of nearly nothing.
    'noisy, V/L² of 20': Scenario(_base(noise=20.0), assumptions=None),
    'like a small detector': Scenario(_DETECTOR, assumptions=None),
    'from 2 w*': Scenario(_base(norm=5.6)),
    'from w*/2': Scenario(_base(norm=1.4)),
    'step ÷10': Scenario(_base(lr=_STEP), state='unreachable in this stage'),
    'step ÷10, rescaled': Scenario(_base(lr=_STEP, rescale=True)),
    'warm-up': Scenario(_base(lr=_WARM)),
    'cosine': Scenario(_base(lr=_COSINE), state='equilibrium moves'),
    'clipped at half of the steps': Scenario(
        _base(noise=0.5, max_norm=0.33), assumptions=None, state='in equilibrium'
    ),
    'clipped at every step': Scenario(
        _base(max_norm=0.1, norm=0.79), state='in equilibrium'
    ),
    'clipped at every step, from 2 w*': Scenario(_base(max_norm=0.1, norm=1.6)),
    'clipped at every step, step ÷10': Scenario(
        _base(max_norm=0.1, norm=0.79, lr=_STEP), state='unreachable in this stage'
    ),
    'Nesterov': Scenario(_base(optimizer='nesterov'), state='in equilibrium'),
    'Nesterov, correlated gradients': Scenario(
        _base(optimizer='nesterov', correlation=0.7, norm=3.5), state='in equilibrium'
    ),
    'Nesterov from 2 w*': Scenario(_base(optimizer='nesterov', norm=5.6)),
    'Nesterov, step ÷10': Scenario(
        _base(optimizer='nesterov', lr=_STEP), state='unreachable in this stage'
    ),
    'AdamW': Scenario(_adamw(), state='in equilibrium'),
    'AdamW from 2 w*': Scenario(_adamw(norm=2.0)),
    'AdamW, step ÷10': Scenario(
        _adamw(lr=0.02 * _STEP), state='unreachable in this stage'
    ),
    'AdamW, cosine': Scenario(_adamw(lr=0.02 * _COSINE), state='equilibrium moves'),
    'AdamW, clipped': Scenario(_adamw(max_norm=0.3, noise=1.0), state='in equilibrium'),
    'NAdam': Scenario(_adamw(optimizer='nadamw'), state='in equilibrium'),
}

BROKEN = {
    'drifting L': Scenario(
        _base(unit_grad_sq=np.exp(np.linspace(0, 2, 3000))),
        assumptions=frozenset({'slow_drift'}),
    ),
    # Where V does not exist the smallest gradients are far under L.
    'heavy-tailed noise': Scenario(
        _base(noise=pareto),
        assumptions=frozenset({'bounded_noise', 'lower_bound_strict'}),
    ),
    'h̃ under the bound': Scenario(
        _base(noise=often_nothing), assumptions=frozenset({'lower_bound_strict'})
    ),
    'not scale-invariant': Scenario(
        _base(radial=0.3), diagnosis='lemma_1', state='not scale-invariant'
    ),
    'left the regime': Scenario(
        _base(**_LEAKS), state='left the scale-invariant regime'
    ),
    # Δ/Δ* falls from 1.6 to 0.4 within the end of the stage, and its mean there is 1.
    'equilibrium passed': Scenario(
        _base(weight_decay=1e-4, unit_grad_sq=_FALLING),
        assumptions=None,
        state='approaching from above',
    ),
    'gradient along w': Scenario(_base(radial=3e-3), diagnosis='lemma_1'),
    'momentum 0.02 too high': Scenario(
        _base(momentum=0.88, weight_decay=1e-3),
        claims=dict(momentum=0.9),
        assumptions=None,
        diagnosis='linear_convergence',
    ),
    'wrong momentum': Scenario(
        _base(), claims=dict(momentum=0.7), diagnosis='transient_law'
    ),
    'weight decay 10 % too low': Scenario(
        _base(), claims=dict(weight_decay=1.8e-3), diagnosis='linear_convergence'
    ),
    'wrong weight decay': Scenario(
        _base(), claims=dict(weight_decay=2.2e-3), diagnosis='linear_convergence'
    ),
    'wrong weight decay, clipped': Scenario(
        _base(max_norm=0.1, norm=0.79),
        claims=dict(weight_decay=2.2e-3),
        diagnosis='linear_convergence',
    ),
    'Nesterov, weight decay 10 % too low': Scenario(
        _base(optimizer='nesterov'),
        claims=dict(weight_decay=1.8e-3),
        diagnosis='linear_convergence',
    ),
    'Nesterov, wrong momentum': Scenario(
        _base(optimizer='nesterov'),
        claims=dict(momentum=0.7),
        diagnosis='transient_law',
    ),
    'Nesterov, gradient along w': Scenario(
        _base(optimizer='nesterov', radial=3e-3), diagnosis='lemma_1'
    ),
    'AdamW, weight decay 10 % too low': Scenario(
        _adamw(lr=np.full(6000, 1e-3)),
        claims=dict(weight_decay=0.18),
        diagnosis='linear_convergence',
    ),
    'AdamW, weight decay 10 % too high': Scenario(
        _adamw(lr=np.full(6000, 1e-3)),
        claims=dict(weight_decay=0.22),
        diagnosis='linear_convergence',
    ),
    'AdamW, wrong β₁': Scenario(
        _adamw(),
        claims=dict(momentum=0.8),
        assumptions=frozenset({'update_along_weight'}),
        diagnosis='linear_convergence',
    ),
    'AdamW, gradient along w': Scenario(
        _adamw(radial=3e-3),
        assumptions=frozenset({'update_along_weight'}),
        diagnosis='lemma_1',
    ),
    'stage too short': Scenario(
        _base(lr=np.full(150, 0.05), norm=8.0), state='stage too short'
    ),
}


def simulate(scenario: Scenario, layers: int, seed: int, window: int = 50) -> Records:
    """The records of a scenario."""
    walk = Walk(**scenario.settings, layers=layers, seed=seed)
    return records_of(walk, window, **scenario.claims)


def simulate_many(scenario: Scenario, layers: int, runs: int) -> Iterator[Records]:
    """The records of some runs of a scenario, which walk side by side."""
    for seed in range(0, runs, SIDE_BY_SIDE):
        number = min(SIDE_BY_SIDE, runs - seed)
        settings = scenario.settings | dict(layers=number * layers, runs=number)
        walk = Walk(**settings, seed=seed)
        for run in range(number):
            yield records_of(walk, **scenario.claims, run=run)
