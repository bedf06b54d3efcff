"""What a report holds: verdicts on checks, stages and layers."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from smd_mmdet.stages import WARMUP

HOLDS, FAILS = 'holds', 'fails'
UNDECIDED, NOT_APPLICABLE = 'undecided', 'not applicable'

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

LEVEL = 0.05


@dataclass
class Check:
    """One statement of the theory, held against one layer's stage.

    Args:
        name: Which statement.
        kind: 'assumption' or 'conclusion'; only conclusions set the exit code.
        value: What was measured; None where nothing can be.
        bound: What it is held against.
        margin: Distance to the bound as a fraction of it, negative beyond it.
        verdict: 'holds', 'fails', 'undecided' or 'not applicable'.
        reason: One sentence.
        interval: Confidence interval of ``value``, where there is one.
        p_value: Of the deviation beyond the tolerance, where it was tested.
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


@dataclass
class StageReport:
    """What one layer did in one stage; the ratios are those of the stage's end."""

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
    iterations_per_step: int = 1  # more where gradients are accumulated
    diagnosis: str = ''  # the check that names the cause, where a conclusion fails
    checks: list[Check] = field(default_factory=list)

    def verdict_of(self, name: str) -> str | None:
        """The verdict of the check of that name."""
        return next((c.verdict for c in self.checks if c.name == name), None)

    @property
    def failing(self) -> list[Check]:
        """The conclusions that fail, in the order of the checks."""
        return [c for c in self.checks if c.kind == 'conclusion' and c.verdict == FAILS]


@dataclass
class LayerReport:
    """All stages of one layer."""

    layer: str
    shape: list[int]
    stages: list[StageReport] = field(default_factory=list)


@dataclass
class StageSummary:
    """What the layers did in one stage, together."""

    stage: int
    first_iter: int
    last_iter: int
    lr: float
    layers: int
    in_equilibrium: int
    states: dict[str, int]
    median_angular_update_ratio: float | None
    median_transient_ratio: float | None


@dataclass
class Report:
    """All verdicts on a run.

    Args:
        layers: One entry per layer.
        stages: One entry per stage, over all layers.
        verdict: The whole in one sentence.
        exit_code: 0 if every conclusion holds where equilibrium was reachable (or
            nothing speaks against it), 1 if some fail.
        theory: Name of the optimizer's theory, or 'none'.
        measured_iterations: That the records' windows cover.
    """

    layers: list[LayerReport]
    stages: list[StageSummary]
    verdict: str
    exit_code: int
    theory: str = 'sgd'
    level: float = LEVEL
    measured_iterations: int = 0

    def verdict_counts(self, number: int | None = None) -> dict[str, Counter[str]]:
        """How many layers each check came to each verdict in.

        Args:
            number: Of the stage; None for all after warm-up together.
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
