"""Validation scores and losses of a run, from the logs that MMEngine writes.

A run has a folder of logs for each time it was started. MMEngine's LocalVisBackend
writes the scores to ``vis_data/scalars.json`` there. A run whose ``vis_backends`` are
others, or none, has no such file, and the text log alone keeps its scores.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ['read_losses', 'read_scores']

_TRAIN = re.compile(
    r'Iter\(train\)\s*\[\s*(\d+)/|Epoch\(train\)\s*\[(\d+)\]\[\s*(\d+)/(\d+)'
)
_VALIDATION = re.compile(r'(?:Iter|Epoch)\(val\)')
_LOSS = re.compile(r'\bloss: (-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=\s|$)')
_SCORE = re.compile(r'(\S+/\S+): (-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=\s|$)')

# An iteration (None if the log does not say) and the scores of its validation.
_Validation = tuple[int | None, dict[str, float]]


def read_scores(
    work_dir: str | os.PathLike, started: str | None = None
) -> dict[str, dict[int, float]]:
    """Scores of every validation of a run, also of one that was resumed.

    Args:
        work_dir: The run's folder.
        started: Name of the run's first folder of logs; older ones are those of
            earlier runs in the same folder. None takes all.

    Returns:
        The value of each metric ('coco/bbox_mAP', say) by iteration; no metric for a
        run without validation. Scores below 0, which COCO's evaluation gives where
        there are no objects, are left out.
    """
    found: list[_Validation] = []
    for log, structured in _logs(work_dir, started):
        validations = _from_json(structured) if structured.is_file() else []
        found += validations or _from_text(log)
    scores: dict[str, dict[int, float]] = {}
    for iteration, values in found:
        if iteration is None:
            continue  # a test run on its own, whose iteration nobody knows
        for name, value in values.items():
            if 0 <= value < float('inf'):
                scores.setdefault(name, {})[iteration] = value
    return {name: dict(sorted(values.items())) for name, values in scores.items()}


def read_losses(
    work_dir: str | os.PathLike, started: str | None = None
) -> dict[int, float]:
    """The training loss of a run where it was logged, also of one that was resumed.

    Args:
        work_dir: The run's folder.
        started: Name of the run's first folder of logs, as for :func:`read_scores`.

    Returns:
        The loss, as MMEngine smooths it, by iteration; empty without a log. Losses
        that are not finite are left out.
    """
    found: dict[int, float] = {}
    for log, _ in _logs(work_dir, started):
        with open(log, encoding='utf-8', errors='replace') as file:
            for text in file:
                iteration, loss = _trained(text), _LOSS.search(text)
                if iteration is not None and loss:
                    found[iteration] = float(loss[1])
    return dict(sorted(found.items()))


def _logs(
    work_dir: str | os.PathLike, started: str | None
) -> Iterator[tuple[Path, Path]]:
    """The text log of each start of a run, and where its scalars would be."""
    for log in sorted(Path(work_dir).glob('*/*.log')):
        if log.parent.name >= (started or ''):
            yield log, log.parent / 'vis_data' / 'scalars.json'


def _trained(text: str) -> int | None:
    """The iteration of a line of training in a text log; None of other lines."""
    if not (match := _TRAIN.search(text)):
        return None
    plain, epoch, step, steps = match.groups()
    return int(plain or (int(epoch) - 1) * int(steps) + int(step))


def _from_json(path: Path) -> list[_Validation]:
    """The validations in a file of scalars, in which a line of training counts."""
    found: list[_Validation] = []
    iteration: int | None = None
    with open(path, encoding='utf-8') as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the last line of a run that was killed
            names = [n for n in line if '/' in n and not n.startswith('smd/')]
            if 'iter' in line:
                iteration = int(line['iter'])
            elif any(name.startswith('smd/') for name in line):
                iteration = max(iteration or 0, int(line['step']))
            elif names:
                values = {n: line[n] for n in names if isinstance(line[n], int | float)}
                found.append((iteration, values))
    return found


def _from_text(path: Path) -> list[_Validation]:
    """The validations in a text log, of lines that are read like those of scalars."""
    found: list[_Validation] = []
    iteration: int | None = None
    with open(path, encoding='utf-8', errors='replace') as file:
        for text in file:
            if (trained := _trained(text)) is not None:
                iteration = trained
            elif _VALIDATION.search(text) and (pairs := _SCORE.findall(text)):
                found.append((iteration, {name: float(v) for name, v in pairs}))
    return found
