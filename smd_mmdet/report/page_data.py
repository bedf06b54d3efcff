"""What the page's script draws: the lines of all layers and the verdicts on them.

Numbers of a line travel as plotly.js reads them by itself (from version 2.28 on): an
object of ``dtype``, 'f4' for 32-bit floats say, and ``bdata``, the bytes in base64.
Each such array is kept once, in ``arrays``, and named by its place there.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from smd_mmdet.checks import StageReport

from .canvas import COLOURS, OTHER, part_colours, span_of, stage_labels
from .grouping import pieces
from .panels import LAW, PANELS, QUANTITIES, STEPS, Quantity, series_of
from .reduce import min_max
from .run import Motion, Run, short
from .words import CHECKS, transient_law

__all__ = ['page_data']

# Points of all lines together: of 8 bytes at most, which base64 makes 11, they take
# 2.3 MB of a page, whatever the number of layers.
MOST_POINTS = 216_000
MOST_BUCKETS = 1000
LAW_BUCKETS = 60
# Share of a line's values, the least of each stage, that the axis of all layers cuts.
DIPS = 0.002
# Most lines of Δ* in the figure of all layers.
MOST_EQUILIBRIA = 6
# Windows at the end of a run that its last values are means of.
LAST_WINDOWS = 5

# Two places in ``arrays``: iterations and values.
_Line = tuple[int, int]


def page_data(run: Run) -> dict[str, Any]:
    """What the page's script draws.

    Args:
        run: The run to show.

    Returns:
        Values that JSON can hold: ``layers`` with their verdicts and lines, a line
        being two places in ``arrays``, and what all layers share.
    """
    arrays = _Arrays()
    verdicts = {layer.layer: layer for layer in run.report.layers}
    parts = part_colours(run)
    series = [list(series_of(layer)) for layer in run.layers]
    buckets = _buckets(series)
    reasons = _Reasons()
    layers: list[dict[str, Any]] = []
    for layer, known in zip(run.layers, series, strict=True):
        lines = _lines(layer, known, arrays, buckets)
        layers.append(
            {
                'name': layer.name,
                'short': short(layer.name),
                'shape': verdicts[layer.name].shape,
                'part': list(parts).index(run.parts[layer.name]),
                'unit': layer.unit_name,
                'mean': layer.mean_name,
                'windows': len(layer.iter),
                'lines': lines,
                'ranges': _ranges(layer),
                'stages': [_stage(s, reasons) for s in verdicts[layer.name].stages],
            }
        )
    equilibria = _equilibria(layers)
    return {
        'layers': layers,
        'first': run.layers.index(run.furthest),
        'panels': [asdict(panel) for panel in PANELS],
        'quantities': [_quantity(run, quantity) for quantity in QUANTITIES],
        'equilibria': equilibria,
        'law': transient_law(run.report.theory),
        'white': any(
            stage['white'] is not None for each in layers for stage in each['stages']
        ),
        'parts': [
            {'name': part, 'colour': COLOURS.index(c) if c != OTHER else -1}
            for part, c in parts.items()
        ],
        'stages': [
            {
                'stage': s.stage,
                'first': s.first_iter,
                'last': s.last_iter,
                'names': stage_labels(s),
            }
            for s in run.report.stages
        ],
        'last': run.last_iter,
        'heat': _heat(run),
        'checks': {name: list(words) for name, words in CHECKS.items()},
        'reasons': reasons.told,
        'sentences': list(reasons.sentences),
        'arrays': arrays.specs,
    }


# ------------------------------------------------------------------ lines


class _Arrays:
    """Arrays for plotly.js, each kept once whoever shares it."""

    def __init__(self) -> None:
        self.specs: list[dict[str, str]] = []
        self.values: list[np.ndarray] = []
        self._known: dict[tuple[str, str], int] = {}

    def add(self, values: np.ndarray) -> int:
        """Keep an array, and give its place.

        Args:
            values: Floats, which are kept in 32 bits, or whole numbers from 0 on.
        """
        if values.dtype.kind == 'f':
            values = values.astype('<f4')
        else:
            values = values.astype('<u4' if values.max(initial=0) >= 2**16 else '<u2')
        spec = values.dtype.str[1:], base64.b64encode(values.tobytes()).decode()
        if spec not in self._known:
            self._known[spec] = len(self.specs)
            self.specs.append(dict(zip(('dtype', 'bdata'), spec, strict=True)))
            self.values.append(values)
        return self._known[spec]


def _buckets(series: Sequence[Sequence[tuple[str, str, np.ndarray]]]) -> int:
    """The most buckets per line for which the page has room; each keeps two points."""
    lines = sum(kind not in (LAW, STEPS) for known in series for _, kind, _ in known)
    # Steps may change at every window, and then need as much.
    return int(np.clip(MOST_POINTS // (2 * (lines + len(series))), 10, MOST_BUCKETS))


def _lines(
    layer: Motion,
    series: Sequence[tuple[str, str, np.ndarray]],
    arrays: _Arrays,
    buckets: int,
) -> dict[str, _Line]:
    """The points kept of each series."""
    lines: dict[str, _Line] = {}
    for name, kind, values in series:
        if kind == STEPS:
            points = _turns(values, buckets)
        else:
            points = min_max(values, LAW_BUCKETS if kind == LAW else buckets)
        lines[name] = arrays.add(layer.iter[points]), arrays.add(values[points])
    return lines


def _turns(values: np.ndarray, buckets: int) -> np.ndarray:
    """Where a line of steps changes, or its extremes if it always does."""
    turns = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    if len(turns) > 2 * buckets:
        turns = min_max(values, buckets)
    return np.union1d(turns, [len(values) - 1])


def _equilibria(layers: Sequence[dict[str, Any]]) -> list[_Line]:
    """The first different lines of Δ* among the layers."""
    lines = [
        each['lines']['angle_eq'] for each in layers if 'angle_eq' in each['lines']
    ]
    return list(dict.fromkeys(lines))[:MOST_EQUILIBRIA]


# ------------------------------------------------------------------ axes


def _ranges(layer: Motion) -> dict[str, tuple[float, float] | None]:
    """Limits of a layer's logarithmic panels, as powers of ten.

    None stands for a panel with values that no logarithm has. The laws of decay fall
    for ever, and do not stretch the axis.
    """
    ranges: dict[str, tuple[float, float] | None] = {}
    for panel in PANELS:
        shown = [
            getattr(layer, line.series)[part]
            for line in panel.lines
            if line.kind != LAW
            for part in layer.stages
        ]
        known = np.concatenate(shown)
        known = known[np.isfinite(known)]
        if panel.log and len(known):
            positive = known.min() > 0
            ranges[panel.name] = _log_range(shown, panel.dips) if positive else None
    return ranges


def _quantity(run: Run, quantity: Quantity) -> dict[str, Any]:
    """What the figure of all layers says and holds if it shows a quantity."""

    def take(layer: Motion) -> np.ndarray:
        return getattr(layer, quantity.series)

    beside = [layer.angle_eq[layer.stage >= 0] for layer in run.layers]
    if quantity.series != 'angle':
        beside = [np.full(1, quantity.reference or np.nan)]
    shown = [*run.pieces(take), *beside]
    return {
        **asdict(quantity),
        'range': _log_range(shown, DIPS, [take(layer) for layer in run.layers]),
        'ends': _ends(run, take),
    }


def _ends(run: Run, take: Callable[[Motion], np.ndarray]) -> list[list[Any]]:
    """Name and last value of the lowest layer, the middle one and the highest."""
    last = {
        short(layer.name): _number(np.mean(known[-LAST_WINDOWS:]), 3)
        for layer in run.layers
        if len(known := take(layer)[np.isfinite(take(layer))])
    }
    rising = sorted(last.items(), key=lambda pair: pair[1] or 0.0)
    return [list(rising[i]) for i in (0, len(rising) // 2, -1)] if rising else []


def _log_range(
    shown: Sequence[np.ndarray], dips: float, below: Sequence[np.ndarray] = ()
) -> tuple[float, float] | None:
    """Limits of a logarithmic axis, as powers of ten.

    Args:
        shown: Values of the lines that the axis must hold, each by itself.
        dips: Share of the values of each line, the least, that may lie outside.
        below: Lines that must not go beyond the upper limit.

    Returns:
        None, if there is nothing to show.
    """
    span = span_of(shown, dips)
    if span is None:
        return None
    high = max(span[1], (span_of(below) or span)[1])
    return round(float(np.log10(span[0])), 6), round(float(np.log10(high)), 6)


def _heat(run: Run) -> dict[str, list] | None:
    """Δ/Δ* layer by time as plain numbers, which are shown where the mouse points.

    Returns:
        None, if no equilibrium is known at all.
    """
    edges, ratios = run.heat()
    if not np.isfinite(ratios).any():
        return None
    rows = [[_number(value, 3) for value in row] for row in ratios]
    return {'edges': [int(edge) for edge in edges], 'rows': rows}


# ------------------------------------------------------------------ verdicts


class _Reasons:
    """Reasons of verdicts, each kept once, and apart from their figures.

    Attributes:
        sentences: The words of reasons that differ by their figures only.
        told: Of each reason, the place of its words and its figures.
    """

    def __init__(self) -> None:
        self.sentences: dict[tuple[str, ...], int] = {}
        self.told: list[list[Any]] = []
        self._known: dict[str, int] = {}

    def add(self, reason: str) -> int:
        """Keep a reason, and give its place."""
        if reason not in self._known:
            words, figures = pieces(reason)
            place = self.sentences.setdefault(tuple(words), len(self.sentences))
            self._known[reason] = len(self.told)
            self.told.append([place, *figures])
        return self._known[reason]


def _stage(stage: StageReport, reasons: _Reasons) -> dict[str, Any]:
    """The verdicts on one stage of a layer.

    Args:
        stage: The stage.
        reasons: All reasons; new ones are added.
    """
    return {
        'stage': stage.stage,
        'state': stage.state,
        'note': stage.note,
        'angle': _number(stage.angular_update_ratio),
        'norm': _number(stage.weight_norm_ratio),
        'law': _number(stage.transient_ratio),
        'white': _number(stage.whiteness, 3),
        'checks': [
            [
                check.name,
                check.kind,
                check.verdict,
                *map(_number, (check.value, check.bound, check.margin)),
                reasons.add(check.reason),
            ]
            for check in stage.checks
        ],
    }


def _number(value: float | None, digits: int = 5) -> float | None:
    """A few digits of a number, for JSON; None where there is no finite value."""
    if value is None or not np.isfinite(value):
        return None
    return float(f'{value:.{digits}g}')
