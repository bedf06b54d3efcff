"""What stands beside the verdict on the page: results, date and settings of a run."""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from smd_mmdet.stages import stage_name
from smd_mmdet.theory import THEORIES

from .clipping import clipping_settings, percent
from .grouping import number, span
from .remarks import clipped
from .run import Run

__all__ = ['Fact', 'overview']

# Metrics that are shown where a run has them, the first kind that it has.
_HEADLINES = (r'mAP$', r'AP$', r'top1$', '')
_MOST_SCORES = 3
_NAMES = {'bbox': 'box', 'segm': 'mask'}


@dataclass(frozen=True)
class Fact:
    """A figure with its name.

    Args:
        name: What it is, 'box AP' say.
        value: The figure.
        detail: What belongs to it: since when, the best one.
    """

    name: str
    value: str
    detail: str = ''


def overview(run: Run) -> list[Fact]:
    """Results, date and settings of a run, as far as its records and logs tell.

    Args:
        run: The run to show.

    Returns:
        Scores of the last validation, loss, date, learning rate, weight decay,
        momentum, clipping and batch size; what is not known is left out.
    """
    return [*_scores(run), *_loss(run), *_date(run), *_settings(run)]


# ------------------------------------------------------------------ results


def _scores(run: Run) -> list[Fact]:
    names = next(
        (found for kind in _HEADLINES if (found := _named(run.scores, kind))), []
    )
    # Of a run without a log nobody knows whether it was validated.
    if not names and run.losses:
        return [Fact('AP', '–', 'not validated yet')]
    return [_score(name, run.scores[name]) for name in names[:_MOST_SCORES]]


def _named(scores: Iterable[str], kind: str) -> list[str]:
    return [name for name in scores if re.search(kind, name)]


def _score(name: str, values: Mapping[int, float]) -> Fact:
    # COCO's are shares of 1; MMPretrain's accuracy is in per cent.
    share = 100.0 if 'AP' in name else 1.0
    last, best = max(values), max(values, key=values.__getitem__)
    detail = f'iteration {last:,}'
    if values[best] > values[last]:
        detail += f'; best {share * values[best]:.1f} at {best:,}'
    return Fact(_metric(name), f'{share * values[last]:.1f}', detail)


def _metric(name: str) -> str:
    """A metric as people call it: 'box AP' for 'coco/bbox_mAP'."""
    short = name.rsplit('/', 1)[-1]
    if short == 'top1':
        return 'top-1 accuracy'
    if match := re.fullmatch(r'(bbox|segm)_mAP', short):
        return f'{_NAMES[match[1]]} AP'
    return short


def _loss(run: Run) -> list[Fact]:
    if not run.losses:
        return []
    first, last = min(run.losses), max(run.losses)
    detail = f'iteration {last:,}'
    if first < last:
        detail += f'; {number(run.losses[first])} at {first:,}'
    return [Fact('loss', number(run.losses[last]), detail)]


# ------------------------------------------------------------------ settings


def _date(run: Run) -> list[Fact]:
    """When the run began: MMEngine names its folder of logs by that."""
    try:
        began = datetime.strptime(str(run.metadata.get('started')), '%Y%m%d_%H%M%S')
    except ValueError:
        return []
    return [Fact('begun', f'{began:%Y-%m-%d}', f'{began:%H:%M}')]


def _settings(run: Run) -> list[Fact]:
    law = THEORIES.get(run.report.theory)
    # Records of adaptive optimizers keep their β₁ as momentum.
    first = 'β₁' if law and law.drive == 'update_sq' else 'momentum'
    facts = [
        _rates(run),
        Fact('weight decay', _range(run, 'decay'), 'of the measured weights'),
        Fact(first, _range(run, 'momentum')),
    ]
    return [*facts, *_clipped(run), *_batch(run)]


def _clipped(run: Run) -> list[Fact]:
    known = clipped(run)
    clipping = run.metadata.get('clipping')
    if known is None or not (known[0] or clipping):
        return []
    limit = clipping_settings(clipping)
    detail = f'of steps, {limit}' if limit else 'of steps'
    return [Fact('clipped', percent(known[0]), detail)]


def _batch(run: Run) -> list[Fact]:
    """Images of an iteration, on all processes where it is known how many these are."""
    size = _batch_size(str(run.metadata.get('config') or ''))
    if not size:
        return []
    processes = run.metadata.get('processes')
    if not isinstance(processes, int):
        return [Fact('batch', str(size), 'images per process')]
    told = 'images'
    if processes > 1:
        told = f'{size} per process × {processes} processes'
    return [Fact('batch', str(size * processes), told)]


def _rates(run: Run) -> Fact:
    """The learning rate of each stage; of one that moves, where from and where to."""
    told = []
    names = []
    for stage in run.report.stages:
        if stage.stage < 0 and len(run.report.stages) > 1:
            continue
        layer = run.longest
        rates = layer.lr[layer.stage == stage.stage]
        rates = rates[np.isfinite(rates)]
        moves = len(rates) > 0 and max(rates) > 1.01 * min(rates)
        told.append(f'{rates[0]:.3g} → {rates[-1]:.3g}' if moves else stage.rate_text)
        names.append(stage_name(stage.stage))
    detail = f'{names[0]} to {names[-1].split()[-1]}' if len(names) > 1 else ''
    return Fact('learning rate', ', '.join(told) or '–', detail)


def _range(run: Run, name: str) -> str:
    """The lowest and the highest value of a setting over all layers and windows."""
    values = np.concatenate([getattr(layer, name) for layer in run.layers])
    known = values[np.isfinite(values)]
    return span([known.min(), known.max()] if len(known) else [])


def _batch_size(config: str) -> int | None:
    """``batch_size`` of ``train_dataloader`` in the text of a config, if any."""
    try:
        lines = ast.parse(config).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for line in lines:
        if isinstance(line, ast.Assign) and _is_called(line, 'train_dataloader'):
            for name, value in _entries(line.value):
                if name == 'batch_size' and isinstance(value, ast.Constant):
                    return value.value if isinstance(value.value, int) else None
    return None


def _is_called(line: ast.Assign, name: str) -> bool:
    return any(isinstance(t, ast.Name) and t.id == name for t in line.targets)


def _entries(value: ast.expr) -> list[tuple[str | None, ast.expr]]:
    """Keys and values of ``dict(...)`` or ``{...}`` in a program."""
    if isinstance(value, ast.Call):
        return [(word.arg, word.value) for word in value.keywords]
    if isinstance(value, ast.Dict):
        keys = [getattr(key, 'value', None) for key in value.keys]
        return list(zip(keys, value.values, strict=True))
    return []
