"""What the figures show of a run, layer by layer, computed from its records."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from smd_mmdet import theory
from smd_mmdet.checks import Report, check
from smd_mmdet.records import Records, read_records

__all__ = ['Motion', 'Run', 'read_run', 'short']

# Iterations in the windowed mean of the unit gradient, as in the paper's figures.
MEAN_OVER = 200


@dataclass
class Motion:
    """One layer over the run, one value per window; NaN where nothing is known.

    Args:
        name: Of the layer.
        columns: Of its records.
        theory: Name of the optimizer's theory, or 'none'.
    """

    name: str
    columns: dict[str, np.ndarray] = field(repr=False)
    theory: str = 'sgd'

    def __post_init__(self) -> None:
        get = self.columns.__getitem__
        self.iter, self.count, self.stage = get('iter'), get('count'), get('stage')
        self.lr, self.decay = get('lr'), get('weight_decay')
        self.momentum = get('momentum')
        self.angle = self._root_mean_square('angular_update')
        self.angle_eq = get('angular_update_eq')
        self.norm = get('weight_norm_mean')
        self.cosine = self._root_mean_square('cosine')
        known = theory.THEORIES.get(self.theory)
        self.norm_law = known is not None and known.norm_law
        of_h = self.norm_law and bool((self.momentum > 0).any())
        self.unit_name = 'h̃' if of_h else '‖g̃‖²'
        self.unit = get('unit_h_mean' if of_h else 'unit_grad_sq_mean')

    def _root_mean_square(self, name: str) -> np.ndarray:
        return np.sqrt(self.columns[f'{name}_mean'] ** 2 + self.columns[f'{name}_var'])

    @cached_property
    def ratio(self) -> np.ndarray:
        """Δ_rms/Δ*."""
        with np.errstate(divide='ignore', invalid='ignore'):
            ratio = self.angle / self.angle_eq
        return np.where(ratio > 0, ratio, np.nan)

    @cached_property
    def settings(self) -> bytes:
        """The same for layers whose Δ* is the same but for rounding."""
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
        """w*_t, from that mean; none in warm-up."""
        target = np.full(len(self.norm), np.nan)
        if not self.norm_law:
            return target
        step = self.lr * self.decay
        # While the rate rises there is nothing to converge to.
        fit = (self.stage >= 0) & (step > 0) & (step < 2) & (self.unit_mean > 0)
        settings = self.lr[fit], self.decay[fit], self.unit_mean[fit]
        target[fit] = theory.equilibrium_norm(*settings, self.momentum[fit])
        return target

    @cached_property
    def distance(self) -> np.ndarray:
        """|‖w‖²/w*² − 1|."""
        return np.abs((self.norm / self.norm_eq) ** 2 - 1)

    @cached_property
    def guaranteed(self) -> np.ndarray:
        """The theorem's bound on the distance, from that at the start of each stage.

        (‖w‖² − w*²)² decays at least at 2λη/(1−α), its root at half of that.
        """
        return self._decay(0.5, lambda start, left: start * left)

    @cached_property
    def expected(self) -> np.ndarray:
        """The distance by the mean law: ‖w‖⁴ relaxes at 4λη/(1−α), at constant L."""

        def relax(start: float, left: np.ndarray) -> np.ndarray:
            return np.abs(np.sqrt(1 + ((1 + start) ** 2 - 1) * left) - 1)

        return self._decay(2.0, relax, signed=True)

    def _decay(self, share: float, law, signed: bool = False) -> np.ndarray:
        """A law of decay, begun anew in each stage.

        Args:
            share: Of the theorem's rate.
            law: From the distance at the start and what is left of 1.
            signed: Whether the law wants the distance with its sign.
        """
        curve = np.full(len(self.norm), np.nan)
        if not self.norm_law:
            return curve
        for part in self.stages:
            known = np.flatnonzero(np.isfinite(self.distance[part]))
            decaying = (self.lr[part] > 0) & (self.decay[part] > 0)
            if not len(known) or not decaying.all():
                continue
            first = part.start + known[0]
            settings = (
                v[first : part.stop] for v in (self.lr, self.decay, self.momentum)
            )
            rate = (
                share
                * theory.relaxation_rate(*settings)
                * self.count[first : part.stop]
            )
            left = np.exp(-(np.cumsum(rate) - rate[0]))
            start = (self.norm[first] / self.norm_eq[first]) ** 2 - 1
            curve[first : part.stop] = law(start if signed else abs(start), left)
        return curve


def _moving_mean(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean over at least MEAN_OVER iterations about each window."""
    known = np.isfinite(values) & (count > 0)
    if not known.any():
        return np.full(len(values), np.nan)
    reach = int(np.ceil(MEAN_OVER / np.median(count[known])))
    weight = np.where(known, count, 0.0)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0) * weight)])
    number = np.concatenate([[0.0], np.cumsum(weight)])
    # At the ends the mean is of the nearest windows there are.
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
        name: Of its folder.
        layers: In the order of the model.
        report: The verdicts on it.
        metadata: Of its records.
    """

    name: str
    layers: list[Motion]
    report: Report
    metadata: dict

    @cached_property
    def parts(self) -> dict[str, str]:
        """Part of the model each layer belongs to: backbone, neck, head."""
        names = [layer.name.split('.') for layer in self.layers]
        depth = 1
        while depth < 3 and len({tuple(name[:depth]) for name in names}) < 2:
            depth += 1
        return {
            layer.name: '.'.join(name[:depth])
            for layer, name in zip(self.layers, names, strict=True)
        }

    @property
    def last_iter(self) -> int:
        return max(int(layer.iter[-1]) for layer in self.layers)

    def layer(self, name: str) -> Motion:
        """The layer of that name.

        Raises:
            ValueError: If there is none.
        """
        for layer in self.layers:
            if name in (layer.name, short(layer.name)):
                return layer
        raise ValueError(f'{self.name}: no layer {name!r} in its records')

    def examples(self, most: int = 4) -> list[Motion]:
        """The middle layer of each part, and the one furthest from equilibrium."""
        groups: dict[str, list[Motion]] = {}
        for layer in self.layers:
            groups.setdefault(self.parts[layer.name], []).append(layer)
        chosen = [group[len(group) // 2] for group in groups.values()][: most - 1]
        rest = [layer for layer in self.layers if layer not in chosen]
        chosen += sorted(rest, key=_furthest, reverse=True)[: most - len(chosen)]
        return sorted(chosen, key=self.layers.index)


def short(name: str) -> str:
    """A layer's name without what all of them end in."""
    return name.removesuffix('.weight')


def _furthest(layer: Motion) -> float:
    known = layer.ratio[np.isfinite(layer.ratio)]
    return float(np.abs(np.log(known[-5:])).mean()) if len(known) else -1.0


def read_run(work_dir: str | os.PathLike) -> Run:
    """Read a run and judge it.

    Args:
        work_dir: The run's folder, which has ``smd/*.parquet``.

    Returns:
        The run.

    Raises:
        RecordsError: If there are no records, or they cannot be read.
    """
    return run_of(read_records(work_dir), Path(work_dir).resolve().name)


def run_of(records: Records, name: str) -> Run:
    """The run that records describe.

    Args:
        records: Of the run.
        name: To show.
    """
    report = check(records)
    layers = [Motion(*each, report.theory) for each in records.by_layer()]
    return Run(name, layers, report, records.metadata)
