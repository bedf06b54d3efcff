"""Does a run obey Spherical Motion Dynamics? Records in, verdicts out.

:func:`check` judges a whole run, :func:`standing` the newest windows of one that goes
on. Per layer and stage, each assumption and each conclusion of the theory (Wan et al.,
arXiv 2006.08419) is held against what was measured. What the verdicts mean:

* Deviations are judged by ratios of batch means. There are two estimates of their
  standard error, and the larger one counts. One is that of the batches, in which
  autocorrelation inside a batch does not matter. The other comes from the slow
  wandering of the norm about its equilibrium, which the theory predicts and which the
  batches of a short stage cannot show.
* ``holds``: the confidence interval (:data:`CONFIDENCE`, so two one-sided tests at
  :data:`LEVEL`) lies within the tolerance.
* ``fails``: the deviation exceeds the tolerance *significantly*, over all layers,
  stages and checks of the report together (Holm, family-wise :data:`LEVEL`), and
  for an equilibrium: the layer could have reached it, judging by its norm at the
  start of the stage and the unit gradients measured since.
* ``undecided``: neither of both; the reason says what is missing.
* ``not applicable``: the theory says nothing here; the reason says why.

Where SMDRescaleHook(angular_update=...) sets Δ, equilibrium is not judged, and
:mod:`wanted` tells how near Δ comes to what was wanted.

A check is a function in :mod:`assumptions`, :mod:`motion` or :mod:`equilibrium`, an
entry in the table at that module's end, and its words in ``report/words.py``.
"""

from dataclasses import replace

import numpy as np

from smd_mmdet.records import Records
from smd_mmdet.theory import THEORIES

from .case import ANGLE_TOLERANCE, NORM_TOLERANCE
from .live import Standing, standing
from .motion import COSINE_LEFT, COSINE_ROUNDING
from .series import COLUMNS, MIN_ITERATIONS, READ, Series, Windows
from .stage import check_stage, diagnose, settle_state
from .summary import correct_for_multiplicity, summarize
from .verdicts import (
    CONTROLLED,
    DIVERGED,
    FAILS,
    FROM_ABOVE,
    FROM_BELOW,
    HOLDS,
    IN_EQUILIBRIUM,
    LEFT_REGIME,
    LEVEL,
    MOVING,
    NO_DECAY,
    NO_GRADIENT,
    NO_RATE,
    NO_THEORY,
    NOT_APPLICABLE,
    NOT_INVARIANT,
    OFF,
    TOO_SHORT,
    UNCLEAR,
    UNDECIDED,
    UNREACHABLE,
    Check,
    LayerReport,
    Report,
    StageReport,
    StageSummary,
)
from .wanted import SHARE_WANTED, WANTED, first_controlled

__all__ = [
    'ANGLE_TOLERANCE',
    'CONTROLLED',
    'COSINE_LEFT',
    'COSINE_ROUNDING',
    'DIVERGED',
    'FAILS',
    'FROM_ABOVE',
    'FROM_BELOW',
    'HOLDS',
    'IN_EQUILIBRIUM',
    'LEFT_REGIME',
    'LEVEL',
    'MIN_ITERATIONS',
    'MOVING',
    'NORM_TOLERANCE',
    'NOT_APPLICABLE',
    'NOT_INVARIANT',
    'NO_DECAY',
    'NO_GRADIENT',
    'NO_RATE',
    'NO_THEORY',
    'OFF',
    'READ',
    'SHARE_WANTED',
    'TOO_SHORT',
    'UNCLEAR',
    'UNDECIDED',
    'UNREACHABLE',
    'WANTED',
    'Check',
    'LayerReport',
    'Report',
    'StageReport',
    'StageSummary',
    'Standing',
    'check',
    'standing',
]


def check(records: Records) -> Report:
    """Hold a run's records against the theory.

    Args:
        records: The run's records, as :func:`smd_mmdet.records.read_records` reads
            them.

    Returns:
        The verdicts. A run of no layers gives an empty report.

    Raises:
        RecordsError: If a column is missing.

    Example:
        A layer that stands exactly at its equilibrium, Δ* = √(2·0.01·0.5) = 0.1 and
        w*⁴ = 1·0.5/(2·0.01) = 25, over 40 windows of 50 iterations:

        >>> from smd_mmdet.records import to_table
        >>> row = dict(layer='conv1', count=50, stage=0, angular_update_eq=0.1)
        >>> row |= dict(lr=0.5, weight_decay=0.01, momentum=0.0)
        >>> measured = dict(weight_norm=25**0.25, angular_update=0.1, cosine=0.0)
        >>> for name, value in (measured | dict(unit_grad_sq=1.0, unit_h=1.0)).items():
        ...     row |= {f'{name}_{kind}': value for kind in ('mean', 'min', 'max')}
        ...     row[f'{name}_var'] = 0.04 if name == 'unit_h' else 0.0
        >>> columns = {name: np.full(40, value) for name, value in row.items()}
        >>> columns['iter'] = 50 * np.arange(1, 41)
        >>> report = check(Records(to_table(columns), {'theory': 'sgd'}))
        >>> print(report.verdict.replace('; ', '\\n'))
        1 of 1 layers in equilibrium at the end of stage 0
        no conclusion of the theory fails
        >>> report.layers[0].stages[0].verdict_of('angular_update')
        'holds'
    """
    records.require(COLUMNS)
    theory_name = records.metadata.get('theory') or 'sgd'
    table = records.table
    windows = Windows(table['iter'].to_numpy(), table['count'].to_numpy())
    facts = records.metadata.get('layers') or {}
    clipping = records.metadata.get('clipping')
    shapes = records.shapes()
    controlled_from = first_controlled(records.metadata, windows.iterations_per_step)
    layers = []
    for name, columns in records.by_layer():
        layer = LayerReport(name, list(shapes.get(name, ())))
        previous = None
        for number in np.unique(columns['stage']):
            chosen = columns['stage'] == number
            rows = {key: column[chosen] for key, column in columns.items()}
            series = Series(rows, windows, THEORIES.get(theory_name))
            layer.stages.append(
                check_stage(
                    series,
                    previous,
                    theory_name,
                    facts.get(name) or {},
                    clipping,
                    controlled_from,
                )
            )
            previous = series
        layers.append(layer)
    correct_for_multiplicity(layers)
    for layer in layers:
        for stage in layer.stages:
            settle_state(stage)
            diagnose(stage)
    report = summarize(layers, theory_name, windows.measured)
    return replace(report, caveat=_of_clipping(records, theory_name))


def _of_clipping(records: Records, theory_name: str) -> str:
    """That the records do not tell of clipping, where it would change what follows."""
    known = THEORIES.get(theory_name)
    if known is None or not known.clips or 'clipping' in records.metadata:
        return ''
    names = records.table.column_names
    if 'clipped_share' in names:
        share = records.table['clipped_share'].to_numpy()
        if np.isfinite(share).any():
            return ''
    return (
        'the records do not tell whether gradients were clipped: iterations to '
        'equilibrium are those without clipping; with every step clipped they are '
        'about twice as many'
    )
