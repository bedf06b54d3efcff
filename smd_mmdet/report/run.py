"""What the figures show of a run, layer by layer, computed from its records."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from smd_mmdet import theory
from smd_mmdet.checks import READ, Report, check
from smd_mmdet.records import Records, read_records

from .clipping import unforeseen
from .reduce import split_points, time_means
from .scores import read_losses, read_scores

__all__ = ['MEAN_OVER', 'Motion', 'Reader', 'Run', 'read_run', 'run_of', 'short']

# Reads from a folder the columns that are named.
Reader = Callable[..., Records]

# The columns of a layer that are shown, and those of its noise for studies.
SHOWN = (
    *('iter', 'count', 'stage', 'lr', 'weight_decay', 'momentum', 'weight_norm_mean'),
    *('angular_update_mean', 'angular_update_var', 'angular_update_eq'),
    *('cosine_mean', 'cosine_var', 'unit_grad_sq_mean', 'unit_h_mean'),
    *('unit_h_var', 'unit_h_min', 'update_sq_mean'),
    *('clipped_share', 'clip_coefficient_mean', 'clipping_power'),
    *('angular_update_wanted', 'control_factor'),
)
# Iterations in the moving mean of the unit gradient, as in the paper's figures.
MEAN_OVER = 200
# Columns of the heat map, which is as wide as the page or the figure.
HEAT_COLUMNS = 240


class Motion:
    """One layer over the run: arrays of one value per window.

    A value is NaN where nothing is known.

    Args:
        name: Name of the layer.
        columns: The columns of the layer's records, by name.
        theory_name: Name of the optimizer's theory, or 'none'.
        clipping: How the records' metadata say that gradients are clipped; None where
            they are not, or nothing is said of it.
    """

    def __init__(
        self,
        name: str,
        columns: dict[str, np.ndarray],
        theory_name: str = 'sgd',
        clipping: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.columns = columns
        self.iter = columns['iter']
        self.count = columns['count']
        self.stage = columns['stage']
        self.lr = columns['lr']
        self.decay = columns['weight_decay']
        self.momentum = columns['momentum']
        self.angle = _root_mean_square(columns, 'angular_update')
        self.norm = columns['weight_norm_mean']
        self.cosine = _root_mean_square(columns, 'cosine')
        known = theory.THEORIES.get(theory_name)
        drive = f'{known.drive}_mean' if known and known.norm_law else ''
        # Records of earlier versions lack the drive of adaptive optimizers.
        driven = np.isfinite(columns.get(drive, np.full(1, np.nan))).any()
        self.law = known if driven else None
        self.norm_law = self.law is not None
        self.unit_name, self.unit = '‖g̃‖²', columns['unit_grad_sq_mean']
        if driven and (drive != 'unit_h_mean' or (self.momentum > 0).any()):
            self.unit_name = 'h̃' if drive == 'unit_h_mean' else 'U'
            self.unit = columns[drive]
        self.mean_name = 'mean of U' if self.unit_name == 'U' else 'L'
        shares = self._column('clipped_share')
        # What is to come follows from how often gradients are clipped, if they are.
        self.foreseen = not unforeseen(self.law, clipping, shares[self.count > 0])

    @cached_property
    def angle_eq(self) -> np.ndarray:
        """Δ*; where it depends on how gradients are correlated, of the whole stage."""
        recorded = self.columns['angular_update_eq']
        if self.law is None or not self.law.correlated:
            return recorded
        whiteness = np.full(len(recorded), np.nan)
        for part in self.stages:
            used = self.count[part] > 0
            weights = self.count[part][used]
            gradient = self.columns['unit_grad_sq_mean'][part][used] @ weights
            if gradient > 0:
                whiteness[part] = self.unit[part][used] @ weights / gradient
        settings = self.lr, self.decay, self.momentum
        angle_sq = self.law.angular_update_sq(*settings, 1.0, whiteness)
        return np.where(np.isfinite(recorded), np.sqrt(angle_sq), np.nan)

    @cached_property
    def ratio(self) -> np.ndarray:
        """Δ/Δ*, the root mean square of the angle over that at equilibrium."""
        with np.errstate(divide='ignore', invalid='ignore'):
            ratio = self.angle / self.angle_eq
        return np.where(ratio > 0, ratio, np.nan)

    @cached_property
    def settings(self) -> bytes:
        """Bytes that are equal for layers whose Δ* is equal but for rounding."""
        with np.errstate(divide='ignore'):
            return np.round(np.log(self.angle_eq), 6).tobytes()

    @cached_property
    def stages(self) -> list[slice]:
        """The windows of each stage."""
        ends = [*(np.flatnonzero(np.diff(self.stage)) + 1), len(self.stage)]
        return [
            slice(start, end)
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
            if end > start
        ]

    @cached_property
    def unit_mean(self) -> np.ndarray:
        """Mean of the unit gradient over 200 iterations about each window."""
        mean = np.full(len(self.unit), np.nan)
        for part in self.stages:
            mean[part] = _moving_mean(self.unit[part], self.count[part])
        return mean

    @cached_property
    def norm_eq(self) -> np.ndarray:
        """w* of the law, with :attr:`unit_mean` as its drive; NaN during warm-up."""
        target = np.full(len(self.norm), np.nan)
        if self.law is None:
            return target
        step = self.lr * self.decay
        # While the rate rises there is nothing to converge to.
        fit = (self.stage >= 0) & (step > 0) & (step < 2) & (self.unit_mean > 0)
        settings = self.lr[fit], self.decay[fit], self.unit_mean[fit]
        target[fit] = self.law.equilibrium_norm(*settings, self.momentum[fit])
        return target

    @cached_property
    def distance(self) -> np.ndarray:
        """|‖w‖²/w*² − 1|."""
        return np.abs((self.norm / self.norm_eq) ** 2 - 1)

    @cached_property
    def clipped_share(self) -> np.ndarray:
        """Share of the steps whose gradients were clipped; NaN if none ever was."""
        return self._of_clipping('clipped_share')

    @cached_property
    def clip_coefficient(self) -> np.ndarray:
        """Mean of what gradients were multiplied by; NaN if none was ever clipped."""
        return self._of_clipping('clip_coefficient_mean')

    @cached_property
    def clipping_power(self) -> np.ndarray:
        """The p of :func:`.theory.clipping_power`; 0 where nothing is known of it."""
        if self.law is None or not self.law.clips:
            return np.zeros(len(self.iter))
        power = self._column('clipping_power')
        power = np.where(np.isnan(power), 2 * self._column('clipped_share'), power)
        return np.clip(np.nan_to_num(power), 0.0, 2.0)

    @cached_property
    def wanted(self) -> np.ndarray:
        """Δ that a controller wanted, root mean square; NaN where none did."""
        return self._column('angular_update_wanted')

    @cached_property
    def wanted_ratio(self) -> np.ndarray:
        """Δ over the wanted one."""
        with np.errstate(divide='ignore', invalid='ignore'):
            ratio = self.angle / self.wanted
        return np.where((ratio > 0) & (self.count > 0), ratio, np.nan)

    @cached_property
    def factor(self) -> np.ndarray:
        """What a controller has multiplied the weight by since the start, in all."""
        factors = self._column('control_factor')
        if not np.isfinite(self.wanted).any():
            return np.full(len(self.iter), np.nan)
        return np.cumprod(np.where(factors > 0, factors, 1.0))

    def _of_clipping(self, name: str) -> np.ndarray:
        ever = np.nansum(self._column('clipped_share')) > 0
        return self._column(name) if ever else np.full(len(self.iter), np.nan)

    def _column(self, name: str) -> np.ndarray:
        """A column that records of earlier versions lack; NaN in these."""
        return self.columns.get(name, np.full(len(self.iter), np.nan))

    @cached_property
    def guaranteed(self) -> np.ndarray:
        """The theorem's bound on the distance, begun anew in each stage.

        (‖w‖² − w*²)² decays at least at the theorem's rate r = 2λη/(1−α), and so the
        distance, its root, at r/2: a quarter of 4λη/(1−α). It is derived for SGD whose
        gradients are not clipped.
        """
        if self.law is not theory.THEORIES['sgd'] or self.clipping_power.any():
            return np.full(len(self.norm), np.nan)

        def bound(start: float, left: np.ndarray) -> np.ndarray:
            return abs(start) * left

        return self._decay(0.25, bound)

    @cached_property
    def expected(self) -> np.ndarray:
        """The distance that is expected at constant L, begun anew in each stage.

        The mean of ‖w‖^q relaxes to w*^q at q·λη_e: of SGD ‖w‖⁴ at 4λη/(1−α), of
        AdamW ‖w‖² at 2λη. Where clipping makes L follow the norm as ‖w‖^p, (‖w‖/w*)^q
        with the w* of the moment comes to 1 at (q−p)·λη_e.
        """

        def relax(start: float, left: np.ndarray) -> np.ndarray:
            # The distance is one of ‖w‖².
            half = self.law.exponent / 2 if self.law else 2
            return np.abs((1 + ((1 + start) ** half - 1) * left) ** (1 / half) - 1)

        return self._decay(1.0, relax)

    def _decay(
        self, share: float, law: Callable[[float, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """A law of decay, begun anew in each stage.

        Args:
            share: The rate as a multiple of (q−p)·λη_e.
            law: Gives the distance from ‖w‖²/w*² − 1 at the start of the stage and
                what is left of 1 in each window since.
        """
        curve = np.full(len(self.norm), np.nan)
        if self.law is None or not self.foreseen:
            return curve
        for part in self.stages:
            known = np.flatnonzero(np.isfinite(self.distance[part]))
            decaying = (self.lr[part] > 0) & (self.decay[part] > 0)
            if not len(known) or not decaying.all():
                continue
            first = part.start + known[0]
            since = slice(first, part.stop)
            settings = self.lr[since], self.decay[since], self.momentum[since]
            rate = self.law.rate(*settings, self.clipping_power[since])
            rate *= share * self.count[since]
            left = np.exp(-(np.cumsum(rate) - rate[0]))
            start = (self.norm[first] / self.norm_eq[first]) ** 2 - 1
            curve[since] = law(start, left)
        return curve


def _root_mean_square(columns: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.sqrt(columns[f'{name}_mean'] ** 2 + columns[f'{name}_var'])


def _moving_mean(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean over at least MEAN_OVER iterations about each window."""
    known = np.isfinite(values) & (count > 0)
    if not known.any():
        return np.full(len(values), np.nan)
    reach = int(np.ceil(MEAN_OVER / np.median(count[known])))
    weight = np.where(known, count, 0.0)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0) * weight)])
    number = np.concatenate([[0.0], np.cumsum(weight)])
    # At the ends the mean is of the nearest windows that there are.
    index = np.arange(len(values))
    low = np.clip(index - reach // 2, 0, max(len(values) - reach, 0))
    high = np.minimum(low + reach, len(values))
    spent = number[high] - number[low]
    mean = (total[high] - total[low]) / np.maximum(spent, 1)
    return np.where(spent > 0, mean, np.nan)


@dataclass
class Run:
    """A run as the figures need it.

    Args:
        name: Name of the run's folder.
        layers: The measured layers, in the order of the model.
        report: The verdicts on the run.
        metadata: The metadata of the run's records.
        left_out: A sentence for each part of the records that could not be read.
        scores: The value of each validation metric by iteration, from the run's logs.
        losses: The training loss by iteration, from the run's logs.
    """

    name: str
    layers: list[Motion]
    report: Report
    metadata: dict[str, Any]
    left_out: Sequence[str] = ()
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)

    @cached_property
    def parts(self) -> dict[str, str]:
        """The part of the model, 'backbone' say, that each layer belongs to."""
        names = [layer.name.split('.') for layer in self.layers]
        depth = 1
        while depth < 3 and len({tuple(name[:depth]) for name in names}) < 2:
            depth += 1
        return {
            layer.name: '.'.join(name[:depth])
            for layer, name in zip(self.layers, names, strict=True)
        }

    @property
    def clipped(self) -> bool:
        """Whether it is known that gradients were clipped."""
        return any(np.isfinite(layer.clipped_share).any() for layer in self.layers)

    @property
    def controlled(self) -> bool:
        """Whether a controller has set the angular update of a layer."""
        return any(np.isfinite(layer.wanted).any() for layer in self.layers)

    @property
    def last_iter(self) -> int:
        """The last iteration that was measured."""
        return max(int(layer.iter[-1]) for layer in self.layers)

    @property
    def longest(self) -> Motion:
        """The layer with the most windows."""
        return max(self.layers, key=lambda layer: len(layer.iter))

    def heat(self) -> tuple[np.ndarray, np.ndarray]:
        """Δ/Δ* layer by time, in columns that hold about as many windows each.

        Returns:
            The edges of the columns, in iterations, and the geometric mean of Δ/Δ*
            per layer and column; NaN where there is none.
        """
        edges = split_points(self.longest.iter, HEAT_COLUMNS)
        rows = [
            np.exp(time_means(layer.iter, np.log(layer.ratio), edges))
            for layer in self.layers
        ]
        return edges, np.array(rows)

    def pieces(self, quantity: Callable[[Motion], np.ndarray]) -> list[np.ndarray]:
        """A quantity of each layer in each stage, which axes should hold.

        Args:
            quantity: Gives the values of a layer, one per window.

        Returns:
            The values of each layer and stage. The warm-up, in which every line rises
            with the rate, counts only where there is no other stage.
        """
        every = [
            (layer.stage[part.start], quantity(layer)[part])
            for layer in self.layers
            for part in layer.stages
        ]
        steady = [values for stage, values in every if stage >= 0]
        return steady or [values for _, values in every]

    @cached_property
    def furthest(self) -> Motion:
        """The layer that is furthest from equilibrium at its end, whichever way.

        Layers on which the theory says nothing count only where there is no other.
        """
        return max(self.layers, key=self._distance)

    def _distance(self, layer: Motion) -> float:
        """|ln Δ/Δ*| at a layer's end, as the verdict on it has it; −1 if not known."""
        found = next(each for each in self.report.layers if each.layer == layer.name)
        ratio = found.stages[-1].angular_update_ratio if found.stages else None
        return abs(np.log(ratio)) if ratio and np.isfinite(ratio) else -1.0

    def layer(self, name: str) -> Motion:
        """The layer of a name, which may lack its ending '.weight'.

        Raises:
            ValueError: If no layer has that name.
        """
        for layer in self.layers:
            if name in (layer.name, short(layer.name)):
                return layer
        raise ValueError(f'{self.name}: no layer {name!r} in its records')

    def examples(self, most: int = 4) -> list[Motion]:
        """Layers to show alone: the middle one of each part, and the furthest from Δ*.

        Args:
            most: Most layers to choose.
        """
        groups: dict[str, list[Motion]] = {}
        for layer in self.layers:
            groups.setdefault(self.parts[layer.name], []).append(layer)
        chosen = [group[len(group) // 2] for group in groups.values()][: most - 1]
        rest = [layer for layer in self.layers if layer not in chosen]
        chosen += sorted(rest, key=self._distance, reverse=True)[: most - len(chosen)]
        return sorted(chosen, key=self.layers.index)


def short(name: str) -> str:
    """A layer's name without the ending '.weight', which most of them have."""
    return name.removesuffix('.weight')


def read_run(work_dir: str | os.PathLike, read: Reader = read_records) -> Run:
    """Read a run and judge it.

    Args:
        work_dir: The run's folder, which has ``smd/*.parquet``.
        read: Reads some columns of the records of a folder, as
            :func:`smd_mmdet.records.read_records` does.

    Returns:
        The run, with the verdicts on it, and what its logs tell of scores and losses.

    Raises:
        RecordsError: If there are no records, or they cannot be read.
    """
    run = run_of(read(work_dir, columns=READ), Path(work_dir).resolve().name)
    started = run.metadata.get('started')
    run.scores = read_scores(work_dir, started)
    run.losses = read_losses(work_dir, started)
    return run


def run_of(records: Records, name: str) -> Run:
    """The run that records describe.

    Args:
        records: The records of the run.
        name: What to call the run in figures and on the page.
    """
    report = check(records)
    clipping = records.metadata.get('clipping')
    layers = [
        Motion(name, columns, report.theory, clipping)
        for name, columns in records.by_layer(SHOWN)
    ]
    return Run(name, layers, report, records.metadata, records.left_out)
