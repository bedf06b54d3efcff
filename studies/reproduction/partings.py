"""Where theory and measurement part, and how noisy the gradients are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from smd_mmdet.checks import StageReport

from .results import Result, Results
from .spread import Spread

__all__ = ['Noise', 'Parting', 'distance', 'noise_of', 'partings']


class Noise(NamedTuple):
    """How far the gradients of a layer in a stage are from what the theorems assume.

    Args:
        cosine: Root mean square cosine of w and g within a window, the median over
            the windows of the stage's last third; 0 for a scale-invariant weight.
        variance: V/L², the variance of h̃ over the square of its mean.
        touched: Share of windows in which h̃ was below 0 at least once.
        negative: Share of windows whose mean of h̃ is below 0.
    """

    cosine: float
    variance: float
    touched: float
    negative: float


@dataclass
class Parting:
    """A layer's stage in which a conclusion fails or the theory does not apply.

    Args:
        experiment: Title of the experiment.
        layer: Name of the layer.
        stage: Number of the stage.
        reports: Reports of the runs in which that is so.
        noise: Noise in these runs, the median of each number.
    """

    experiment: str
    layer: str
    stage: int
    reports: list[StageReport]
    noise: Noise

    @property
    def seeds(self) -> int:
        return len(self.reports)

    @property
    def distance(self) -> float:
        """|ln Δ/Δ*| of the run that is furthest from equilibrium."""
        return max(distance(report) for report in self.reports)


def distance(report: StageReport) -> float:
    """|ln Δ/Δ*| at the end of a stage; infinite where Δ is not known or 0."""
    ratio = report.angular_update_ratio
    return float(abs(np.log(ratio))) if ratio and np.isfinite(ratio) else np.inf


def partings(results: Results, states: Sequence[str]) -> list[Parting]:
    """Where a conclusion fails, or a layer is in one of some states.

    Args:
        results: The finished runs of an experiment.
        states: States in which a layer is listed even if no conclusion fails.

    Returns:
        An entry per layer and stage, the furthest from equilibrium first.
    """
    found: dict[tuple[str, int], list] = {}
    for result in results.runs:
        for name, report in result.stages():
            if report.failing or report.state in states:
                noise = noise_of(result, name, report.stage)
                found.setdefault((name, report.stage), []).append((report, noise))
    rows = [
        Parting(
            results.experiment.title,
            layer,
            stage,
            [report for report, _ in entries],
            _middle([noise for _, noise in entries]),
        )
        for (layer, stage), entries in found.items()
    ]
    return sorted(rows, key=lambda row: -row.distance)


def _middle(noises: Sequence[Noise]) -> Noise:
    return Noise(*(Spread.of(values).median for values in zip(*noises, strict=True)))


def noise_of(result: Result, layer: str, stage: int) -> Noise:
    """The noise of a layer in a stage of a run; NaN where it had no gradient."""
    motion = result.run.layer(layer)
    part = (motion.stage == stage) & (motion.count > 0)
    if not part.any():
        return Noise(*[np.nan] * 4)
    weights, columns = motion.count[part], motion.columns
    mean = columns['unit_h_mean'][part]
    level = np.average(mean, weights=weights)
    end = motion.cosine[part][-max(1, len(mean) // 3) :]
    return Noise(
        float(np.median(end)),
        float(np.average(columns['unit_h_var'][part], weights=weights) / level**2),
        float((columns['unit_h_min'][part] < 0).mean()),
        float((mean < 0).mean()),
    )
