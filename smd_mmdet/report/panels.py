"""What the page draws: the panels of one layer, and the quantities of all layers.

A new quantity is a property of :class:`~.run.Motion` and an entry here; the data of the
page, its script and its choices take it from there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from smd_mmdet.checks import COSINE_ROUNDING

from .run import Motion

__all__ = ['PANELS', 'QUANTITIES', 'Line', 'Panel', 'Quantity', 'series_of']

# How a line is thinned: noise keeps its extremes and takes what room there is; a law is
# smooth and needs few points; steps need one point where they change.
NOISE, LAW, STEPS = 'noise', 'law', 'steps'


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Args:
        series: Name of the attribute of a :class:`~.run.Motion` that holds its values.
        label: What the line is called. '{unit}' stands for the name of what drives the
            norm, '{mean}' for that of its mean.
        tone: Index of its colour in the page's palette; None for that of the text.
        kind: How it is thinned.
        dash: Whether it is dashed.
        width: Its width in pixels.
    """

    series: str
    label: str
    tone: int | None
    kind: str = NOISE
    dash: bool = False
    width: float = 1.8


@dataclass(frozen=True)
class Panel:
    """A panel of the figure of one layer, shown where the layer has such values.

    Args:
        name: Key of the panel.
        title: Title of its vertical axis, with the same names.
        lines: What is drawn in it.
        log: Whether its axis is logarithmic where all values allow it. A panel that is
            not begins at 0.
        dips: Share of a line's values, the least in each stage, that may be cut off.
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    log: bool = True
    dips: float = 0.002


PANELS = (
    Panel(
        'angle',
        'Δ',
        (
            Line('angle', 'Δ', 0),
            Line('wanted', 'wanted Δ', 1, width=1.4),
            Line('angle_eq', 'Δ*', None, STEPS, dash=True),
        ),
    ),
    Panel(
        'control',
        'control',
        (
            Line('wanted_ratio', 'Δ/wanted Δ', 0, width=1.2),
            Line('factor', 'factor on ‖w‖ since the start', 1, STEPS),
        ),
    ),
    Panel('norm', '‖w‖', (Line('norm', '‖w‖', 0), Line('norm_eq', 'w*', 1)), log=False),
    Panel(
        'unit',
        '{unit}',
        (Line('unit', '{unit}', 4, width=1), Line('unit_mean', '{mean}', None)),
    ),
    Panel(
        'clipping',
        'clipping',
        (
            Line('clipped_share', 'share of clipped steps', 1),
            Line('clip_coefficient', 'mean clip coefficient', 3),
        ),
        log=False,
    ),
    Panel('cosine', '|cosine|', (Line('cosine', '|cosine(w, g)|', 2),)),
    Panel(
        'distance',
        '|‖w‖²/w*² − 1|',
        (
            Line('distance', 'measured', 0),
            Line('expected', 'expected', None, LAW),
            Line('guaranteed', "theorem's guarantee", 1, LAW, dash=True),
        ),
        # It dips to 0 whenever the norm crosses w*.
        dips=0.05,
    ),
)


@dataclass(frozen=True)
class Quantity:
    """What the figure of all layers may show.

    Args:
        series: Name of the attribute of a :class:`~.run.Motion` that holds its values.
        title: What the choice and the vertical axis say.
        reference: A height to draw a line at; None for none, or for that of Δ*.
        reference_name: What that line is called.
    """

    series: str
    title: str
    reference: float | None = None
    reference_name: str = ''


QUANTITIES = (
    Quantity('angle', 'Δ, rad / iteration', reference_name='Δ*'),
    Quantity('ratio', 'Δ/Δ*', 1.0, 'equilibrium'),
    Quantity('cosine', '|cosine(w, g)|', COSINE_ROUNDING, 'float32 rounds to this'),
)


def series_of(layer: Motion) -> Iterator[tuple[str, str, np.ndarray]]:
    """Each series that the page draws of a layer, once.

    Args:
        layer: The layer.

    Yields:
        Name, kind and values of each series of which something is known.
    """
    drawn = {quantity.series: NOISE for quantity in QUANTITIES}
    drawn |= {line.series: line.kind for panel in PANELS for line in panel.lines}
    for name, kind in drawn.items():
        values = getattr(layer, name)
        if np.isfinite(values).any():
            yield name, kind, values
