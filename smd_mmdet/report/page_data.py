"""What the page's script draws: the lines of all layers and the verdicts on them.

Numbers of a line travel as plotly.js reads them by itself (from version 2.28 on): an
object of ``dtype``, 'f4' for 32-bit floats say, and ``bdata``, the bytes in base64.
Each such array is kept once, in ``arrays``, and named by its place there.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from smd_mmdet.checks import COSINE_ROUNDING, StageReport

from .canvas import COLOURS, OTHER, part_colours
from .reduce import min_max
from .run import Motion, Run, short
from .words import CHECKS

__all__ = ['page_data']

# Points of all lines together: of 8 bytes at most, which base64 makes 11, they take
# 2.3 MB of a page, whatever the number of layers.
MOST_POINTS = 216_000
MOST_BUCKETS = 1000
LAW_BUCKETS = 60

# Measured lines are noisy and get the points that there is room for; the laws of
# decay are smooth and need few.
_NOISY = ('angle', 'norm', 'norm_eq', 'unit', 'unit_mean', 'cosine', 'distance')
_LAWS = ('expected', 'guaranteed')
# Panels of a layer that may be logarithmic, and the lines that their axis must hold.
# The laws of decay fall for ever; they must not stretch the axis.
_PANELS = {
    'angle': ('angle', 'angle_eq'),
    'unit': ('unit', 'unit_mean'),
    'cosine': ('cosine',),
    'distance': ('distance',),
}
# Most lines of Δ* in the figure of all layers.
MOST_EQUILIBRIA = 6

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
    buckets = _buckets(run)
    reasons: dict[str, int] = {}
    layers = []
    for layer in run.layers:
        lines = _lines(layer, arrays, buckets)
        layers.append(
            {
                'name': layer.name,
                'short': short(layer.name),
                'shape': verdicts[layer.name].shape,
                'part': list(parts).index(run.parts[layer.name]),
                'unit': layer.unit_name,
                'windows': len(layer.iter),
                'lines': lines,
                'ranges': _ranges(lines, arrays),
                'stages': [_stage(s, reasons) for s in verdicts[layer.name].stages],
            }
        )
    equilibria = _equilibria(layers)
    return {
        'layers': layers,
        'equilibria': equilibria,
        'ranges': _ranges_of_all(layers, equilibria, arrays),
        'parts': [
            {'name': part, 'colour': COLOURS.index(c) if c != OTHER else -1}
            for part, c in parts.items()
        ],
        'stages': [
            {'stage': s.stage, 'first': s.first_iter, 'last': s.last_iter}
            for s in run.report.stages
        ],
        'last': run.last_iter,
        'heat': _heat(run),
        'rounding': COSINE_ROUNDING,
        'checks': {name: list(words) for name, words in CHECKS.items()},
        'reasons': list(reasons),
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


def _buckets(run: Run) -> int:
    """The most buckets per line for which the page has room; each keeps two points."""
    fitting = MOST_POINTS // (len(run.layers) * (len(_NOISY) + 1) * 2)
    return int(np.clip(fitting, 10, MOST_BUCKETS))


def _lines(layer: Motion, arrays: _Arrays, buckets: int) -> dict[str, _Line]:
    """The points kept of each line that has any."""
    lines: dict[str, _Line] = {}

    def keep(name: str, points: np.ndarray) -> None:
        values = getattr(layer, name)[points]
        lines[name] = arrays.add(layer.iter[points]), arrays.add(values)

    for name in (*_NOISY, *_LAWS):
        values = getattr(layer, name)
        if np.isfinite(values).any():
            points = min_max(values, LAW_BUCKETS if name in _LAWS else buckets)
            keep(name, points)
            if name == 'angle' and np.isfinite(layer.ratio).any():
                keep('ratio', points)
    if np.isfinite(layer.angle_eq).any():
        keep('angle_eq', _turns(layer.angle_eq, buckets))
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


def _ranges(
    lines: dict[str, _Line], arrays: _Arrays
) -> dict[str, tuple[float, float] | None]:
    """Limits of a layer's logarithmic panels, as powers of ten.

    None stands for a panel with values that no logarithm has.
    """
    ranges: dict[str, tuple[float, float] | None] = {}
    for panel, names in _PANELS.items():
        if panel in lines:
            shown = [arrays.values[lines[name][1]] for name in names if name in lines]
            # A distance dips to 0 whenever the norm crosses w*.
            share = 0.05 if panel == 'distance' else 0.002
            known = _sorted(shown)
            positive = len(known) and known[0] > 0
            ranges[panel] = _log_range(known, share, 1.4, 1.4) if positive else None
    return ranges


def _ranges_of_all(
    layers: Sequence[dict[str, Any]], equilibria: Sequence[_Line], arrays: _Arrays
) -> dict[str, tuple[float, float]]:
    """Limits of the figure of all layers, as powers of ten, for each quantity in it."""
    beside = {
        'angle': [arrays.values[values] for _, values in equilibria],
        'ratio': [np.ones(2)],
        'cosine': [np.full(2, COSINE_ROUNDING)],
    }
    ranges = {}
    for name, lines in beside.items():
        shown = [
            arrays.values[each['lines'][name][1]]
            for each in layers
            if name in each['lines']
        ]
        known = _sorted([*shown, *lines])
        known = known[known > 0]
        if len(known):
            ranges[name] = _log_range(known, 0.02, 1.5, 1.3)
    return ranges


def _sorted(lines: Sequence[np.ndarray]) -> np.ndarray:
    """All finite values of some lines, rising."""
    values = np.concatenate([np.zeros(0), *lines])
    return np.sort(values[np.isfinite(values)])


def _log_range(
    values: np.ndarray, share: float, below: float, above: float
) -> tuple[float, float]:
    """Limits of a logarithmic axis, as powers of ten.

    Args:
        values: Rising values above 0.
        share: Share of the values, the least of them, that may lie outside.
        below: Factor of the room below the least value that is inside.
        above: Factor of the room above the greatest value.
    """
    low = values[int(len(values) * share)] / below
    high = values[-1] * above
    return round(float(np.log10(low)), 6), round(float(np.log10(high)), 6)


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


def _stage(stage: StageReport, reasons: dict[str, int]) -> dict[str, Any]:
    """The verdicts on one stage of a layer.

    Args:
        stage: The stage.
        reasons: Place of each reason in the list of them all; new ones are added.
    """
    return {
        'stage': stage.stage,
        'state': stage.state,
        'note': stage.note,
        'angle': _number(stage.angular_update_ratio),
        'norm': _number(stage.weight_norm_ratio),
        'law': _number(stage.transient_ratio),
        'checks': [
            [
                check.name,
                check.kind,
                check.verdict,
                *map(_number, (check.value, check.bound, check.margin)),
                reasons.setdefault(check.reason, len(reasons)),
            ]
            for check in stage.checks
        ],
    }


def _number(value: float | None, digits: int = 5) -> float | None:
    """A few digits of a number, for JSON; None where there is no finite value."""
    if value is None or not np.isfinite(value):
        return None
    return float(f'{value:.{digits}g}')
