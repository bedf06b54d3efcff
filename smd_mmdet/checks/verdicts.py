"""What a report holds: verdicts on checks, stages and layers, and their words."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from smd_mmdet.stages import WARMUP

__all__ = [
    'CONTROLLED',
    'DIVERGED',
    'FAILS',
    'FROM_ABOVE',
    'FROM_BELOW',
    'HOLDS',
    'IN_EQUILIBRIUM',
    'LEFT_REGIME',
    'LEVEL',
    'MOVING',
    'NOT_APPLICABLE',
    'NOT_INVARIANT',
    'NO_DECAY',
    'NO_GRADIENT',
    'NO_RATE',
    'NO_THEORY',
    'OFF',
    'TOO_SHORT',
    'UNCLEAR',
    'UNDECIDED',
    'UNREACHABLE',
    'Check',
    'LayerReport',
    'Report',
    'StageReport',
    'StageSummary',
    'plain',
]

# Verdicts of a check.
HOLDS = 'holds'
FAILS = 'fails'
UNDECIDED = 'undecided'
NOT_APPLICABLE = 'not applicable'

# States of a layer in a stage.
IN_EQUILIBRIUM = 'in equilibrium'
FROM_ABOVE = 'approaching from above'
FROM_BELOW = 'approaching from below'
UNREACHABLE = 'unreachable in this stage'
LEFT_REGIME = 'left the scale-invariant regime'
NOT_INVARIANT = 'not scale-invariant'
NO_GRADIENT = 'no gradient'
NO_THEORY = 'no theory'
NO_DECAY = 'no weight decay'
NO_RATE = 'learning rate 0'
DIVERGED = 'diverged'
TOO_SHORT = 'stage too short'
MOVING = 'equilibrium moves'
OFF = 'not at the predicted equilibrium'
UNCLEAR = 'undecided'
# Δ is what SMDRescaleHook(angular_update=...) sets, not what equilibrium makes it.
CONTROLLED = 'controlled'

# Significance level of 'fails', over all tests of a report together.
LEVEL = 0.05


@dataclass
class Check:
    """One statement of the theory, held against one layer's stage.

    Args:
        name: Name of the statement.
        kind: 'assumption', 'conclusion' or 'control'; single assumptions do not set the
            exit code, nor does the control of a single layer.
        value: What was measured; None where nothing can be.
        bound: What the value is held against.
        margin: Distance to the bound as a fraction of it, negative beyond it.
        verdict: 'holds', 'fails', 'undecided' or 'not applicable'.
        reason: Why the verdict is what it is, in one sentence.
        interval: Confidence interval of ``value``, where there is one.
        p_value: P-value of the deviation beyond the tolerance, where it was tested.
        cause: What would explain a failure, where the evidence points to something.

    Example:
        >>> Check('lemma_1', 'conclusion', 1e-4, 3e-3, 0.97, HOLDS, 'cosine').verdict
        'holds'
    """

    name: str
    kind: str
    value: float | None
    bound: float | None
    margin: float | None
    verdict: str
    reason: str
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    cause: str = ''


@dataclass
class StageReport:
    """What one layer did in one stage.

    Args:
        stage: Number of the stage; −1 for the warm-up.
        first_iter: First iteration of the stage, counted from 1.
        last_iter: Last iteration of the stage.
        lr: Mean learning rate.
        weight_decay: Mean weight decay.
        momentum: Mean momentum.
        angular_update_ratio: Δ_rms/Δ* at the end of the stage; None if not known.
        weight_norm_ratio: ‖w‖/w* at the end of the stage; None if not known.
        transient_ratio: Δ_rms/Δ*·(‖w‖/w*)² at the end of the stage; None if not known.
        state: One of the states above, such as 'in equilibrium'.
        note: What explains the state, where something does.
        iterations_per_step: How many iterations make one step of the optimizer: more
            than 1 where gradients are accumulated.
        iterations_left: How many iterations more equilibrium needs, where the layer is
            on its way or it is too early to tell; None if not known.
        diagnosis: Name of the check that explains why conclusions fail; empty if none
            does.
        checks: All checks with their verdicts.
        angular_update: Δ_rms at the end of the stage, in radians; None if not known.
        angular_update_eq: Δ* there, in radians; None if not known.
        whiteness: E[h̃]/E‖g̃‖² over the stage: 1 if gradients are uncorrelated in time,
            more if they point the same way; None if not known.
        relaxation_iterations: In how many iterations a distance from equilibrium falls
            to 1/e of itself; None if not known.
        norm_power: The power of η in w* ∝ η^…, by which weights have to follow a rate
            that falls: ¼ under SGD, ½ under AdamW or where every step is clipped; None
            if not known.
        clipped_share: Share of steps whose gradient was clipped; None if not known.
        weight_norm_tolerance: How far ‖w‖/w* may be from 1 in equilibrium.
        angular_update_wanted: Wanted Δ_rms at the end of the stage, in radians, where a
            controller sets it; else None.
        wanted_windows: How many windows there are, after the first control, in which
            it does.
        wanted_near: In how many of them Δ_rms is within 10 % of the wanted.

    Example:
        >>> stage = StageReport(0, 1, 1000, lr=0.1, weight_decay=1e-4, momentum=0.9)
        >>> stage.checks = [Check('lemma_1', 'conclusion', 0.1, 0.003, -32, FAILS, '')]
        >>> stage.verdict_of('lemma_1'), [check.name for check in stage.failing]
        ('fails', ['lemma_1'])
    """

    stage: int
    first_iter: int
    last_iter: int
    lr: float
    weight_decay: float
    momentum: float
    angular_update_ratio: float | None = None
    weight_norm_ratio: float | None = None
    transient_ratio: float | None = None
    state: str = UNCLEAR
    note: str = ''
    iterations_per_step: int = 1
    iterations_left: float | None = None
    diagnosis: str = ''
    checks: list[Check] = field(default_factory=list)
    angular_update: float | None = None
    angular_update_eq: float | None = None
    whiteness: float | None = None
    relaxation_iterations: float | None = None
    norm_power: float | None = None
    clipped_share: float | None = None
    weight_norm_tolerance: float = 0.05
    angular_update_wanted: float | None = None
    wanted_windows: int = 0
    wanted_near: int = 0

    def verdict_of(self, name: str) -> str | None:
        """The verdict of the check of that name; None if there is no such check."""
        return next((c.verdict for c in self.checks if c.name == name), None)

    @property
    def failing(self) -> list[Check]:
        """The conclusions that fail, in the order of the checks."""
        return [c for c in self.checks if c.kind == 'conclusion' and c.verdict == FAILS]


@dataclass
class LayerReport:
    """All stages of one layer.

    Args:
        layer: Name of the layer.
        shape: Shape of its weight.
        stages: What the layer did in each stage.

    Example:
        >>> LayerReport('backbone.conv1', [64, 3, 7, 7]).stages
        []
    """

    layer: str
    shape: list[int]
    stages: list[StageReport] = field(default_factory=list)


@dataclass
class StageSummary:
    """What the layers did in one stage, together.

    Args:
        stage: Number of the stage; −1 for the warm-up.
        first_iter: First iteration of the stage, counted from 1.
        last_iter: Last iteration of the stage.
        lr: Learning rate of most layers, the mean over the stage.
        layers: Number of layers.
        in_equilibrium: How many of them are in equilibrium.
        states: How many layers are in each state.
        median_angular_update_ratio: Median Δ_rms/Δ* of the layers; None if not known.
        median_transient_ratio: Median Δ_rms/Δ*·(‖w‖/w*)² of the layers; None if not
            known.
        lr_range: Lowest and highest learning rate of the layers, which differ under
            ``lr_mult``; None if not known.
        median_angular_update: Median Δ_rms of the layers, in radians; None if not
            known.
        median_angular_update_eq: Median Δ* of the layers, in radians; None if not
            known.
        median_whiteness: Median E[h̃]/E‖g̃‖² of the layers; None if not known.
        clipped_share: Share of steps whose gradient was clipped; None if not known.
        wanted_share: Share of the (layer, window) pairs in which Δ_rms is within 10 %
            of the wanted, after the first control; None where nothing is wanted.
        wanted_pairs: How many such pairs there are.

    Example:
        >>> states = {'in equilibrium': 3, 'undecided': 1}
        >>> summary = StageSummary(0, 1, 1000, 0.1, 4, 3, states, 1.01, 0.99)
        >>> f'{summary.in_equilibrium} of {summary.layers}'
        '3 of 4'
    """

    stage: int
    first_iter: int
    last_iter: int
    lr: float
    layers: int
    in_equilibrium: int
    states: dict[str, int]
    median_angular_update_ratio: float | None
    median_transient_ratio: float | None
    lr_range: tuple[float, float] | None = None
    median_angular_update: float | None = None
    median_angular_update_eq: float | None = None
    median_whiteness: float | None = None
    clipped_share: float | None = None
    wanted_share: float | None = None
    wanted_pairs: int = 0

    @property
    def controlled(self) -> int:
        """How many layers a controller holds at what is wanted of them."""
        return self.states.get(CONTROLLED, 0)

    @property
    def rate_text(self) -> str:
        """The learning rate, or the range of the layers' rates, for a table."""
        if self.lr_range is None:
            return f'{self.lr:.4g}' if np.isfinite(self.lr) else '–'
        low, high = self.lr_range
        if high <= 1.01 * low:
            return f'{self.lr:.4g}'
        return f'{low:.4g} to {high:.4g}'


@dataclass
class Report:
    """All verdicts on a run.

    Args:
        layers: What each layer did.
        stages: What the layers did together, by stage.
        verdict: The whole report in one sentence.
        exit_code: 0 if every conclusion holds where equilibrium was reachable (or
            nothing speaks against it), 1 if some fail.
        theory: Key of the optimizer's theory in :data:`THEORIES`, or 'none'.
        level: Significance level of 'fails', over all tests together.
        measured_iterations: How many iterations the records' windows cover.
        context: Δ* of the stage that has the largest, beside those of known recipes;
            empty if no Δ* is known.
        caveat: What the records do not tell and the verdicts take as given; empty if
            there is nothing of that kind.

    Example:
        >>> stage = StageReport(0, 1, 1000, lr=0.1, weight_decay=1e-4, momentum=0.9)
        >>> stage.checks = [Check('lemma_1', 'conclusion', 0.1, 0.003, -32, FAILS, '')]
        >>> layer = LayerReport('conv1', [8, 3, 3, 3], [stage])
        >>> report = Report([layer], [], 'the theory fails in 1 layer', exit_code=1)
        >>> {name: dict(found) for name, found in report.verdict_counts().items()}
        {'lemma_1': {'fails': 1}}
    """

    layers: list[LayerReport]
    stages: list[StageSummary]
    verdict: str
    exit_code: int
    theory: str = 'sgd'
    level: float = LEVEL
    measured_iterations: int = 0
    context: str = ''
    caveat: str = ''

    def verdict_counts(self, number: int | None = None) -> dict[str, Counter[str]]:
        """In how many layers each check came to each verdict.

        Args:
            number: Number of the stage; None for all stages after the warm-up.

        Returns:
            For each check, the number of layers (and stages) by verdict.
        """
        counts: dict[str, Counter[str]] = {}
        for stage in (stage for layer in self.layers for stage in layer.stages):
            if stage.stage == number or (number is None and stage.stage != WARMUP):
                for check in stage.checks:
                    counts.setdefault(check.name, Counter())[check.verdict] += 1
        return counts

    def to_dict(self) -> dict:
        """Plain values, ready for JSON: no NaN, no numpy."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """JSON-able: NaN and infinity become None, numpy numbers Python's."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
