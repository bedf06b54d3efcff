"""The settings of a run and of a config that decide on the angular update."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mmengine.config import Config

from smd_mmdet.config.training import Training
from smd_mmdet.config.types import type_name
from smd_mmdet.records import read_records
from smd_mmdet.theory import THEORIES

__all__ = ['Side', 'side_of_config', 'side_of_run']


@dataclass(frozen=True)
class Side:
    """Settings of a training; None where one is not known.

    Args:
        lr: Highest learning rate.
        weight_decay: Weight decay of most weights.
        momentum: Momentum of most weights; β₁ of Adam's kind.
        batch: Images of a process in an iteration.
        accumulation: Iterations whose gradients make one step of the optimizer.
        processes: Training processes.
        optimizer: Name of the optimizer.
        iterations: Iterations of the training.
        epochs: Epochs, where it counts them.
        clips: By what gradients are clipped, in words; '' for not at all.
    """

    lr: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    batch: int | None = None
    accumulation: int | None = None
    processes: int | None = None
    optimizer: str | None = None
    iterations: int | None = None
    epochs: int | None = None
    clips: str | None = None

    @property
    def images_per_step(self) -> int | None:
        """Images behind a step of the optimizer."""
        if None in (self.batch, self.accumulation, self.processes):
            return None
        return self.batch * self.accumulation * self.processes  # type: ignore[operator]

    @property
    def steps(self) -> int | None:
        """Steps of the optimizer."""
        if self.iterations is None:
            return None
        return -(-self.iterations // (self.accumulation or 1))


def side_of_config(config: Config, training: Training) -> Side:
    """What a config says.

    Args:
        config: The config.
        training: The same, as it is read for a plan.
    """
    optimizer, length = training.optimizer, training.length
    epochs = _whole(config.get('train_cfg'), 'max_epochs')
    return replace(
        _of_settings(config),
        lr=float(training.schedule.lr.max()),
        weight_decay=optimizer.weight_decay,
        momentum=optimizer.momentum,
        accumulation=training.accumulation,
        processes=length.processes,
        optimizer=optimizer.name,
        iterations=length.iterations,
        epochs=epochs if length.by_epoch else None,
    )


def side_of_run(work_dir: str, metadata: Mapping[str, Any]) -> Side:
    """What the records of a run say, and the config that is kept with them.

    Args:
        work_dir: The run's folder.
        metadata: The facts that are kept beside the records.
    """
    table = read_records(work_dir).table
    columns = {
        name: table[name].to_numpy()
        for name in ('lr', 'weight_decay', 'momentum')
        if name in table.column_names
    }
    settings = _literals(str(metadata.get('config') or ''))
    known = THEORIES.get(str(metadata.get('theory')))
    found = _of_settings(settings)
    return replace(
        found,
        lr=_of_column(columns, 'lr', np.max),
        weight_decay=_of_column(columns, 'weight_decay', _most_common),
        momentum=_of_column(columns, 'momentum', _most_common),
        processes=_whole(metadata, 'processes'),
        optimizer=found.optimizer or (known.title if known else None),
        iterations=_whole(metadata, 'max_iters'),
    )


def _of_settings(settings: Mapping[str, Any]) -> Side:
    """What the sections of a config say without any computing."""
    wrapper = _section(settings, 'optim_wrapper')
    optimizer = _section(wrapper, 'optimizer')
    accumulation = wrapper.get('accumulative_counts', 1) if wrapper else None
    return Side(
        batch=_whole(settings.get('train_dataloader'), 'batch_size'),
        accumulation=accumulation if isinstance(accumulation, int) else None,
        optimizer=type_name(optimizer) if optimizer.get('type') else None,
        epochs=_whole(settings.get('train_cfg'), 'max_epochs'),
        clips=_clipping(wrapper) if wrapper else None,
    )


def _clipping(wrapper: Mapping[str, Any]) -> str:
    clip = wrapper.get('clip_grad')
    if not isinstance(clip, Mapping):
        return ''
    told = {key: value for key, value in clip.items() if not str(key).startswith('_')}
    return ', '.join(f'{key}={value}' for key, value in told.items())


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def _whole(settings: Any, name: str) -> int | None:
    found = settings.get(name) if isinstance(settings, Mapping) else None
    return found if isinstance(found, int) and found > 0 else None


def _of_column(columns: Mapping[str, np.ndarray], name: str, take: Any) -> float | None:
    values = columns.get(name, np.empty(0))
    values = values[np.isfinite(values)]
    return float(take(values)) if values.size else None


def _most_common(values: np.ndarray) -> float:
    found, number = np.unique(values, return_counts=True)
    return float(found[np.argmax(number)])


def _literals(text: str) -> dict[str, Any]:
    """The settings of a config's text, as MMEngine dumps it, without running it.

    Example:
        >>> _literals('a = dict(b=[1, -2.5], c=None)\\nd = open("x")')
        {'a': {'b': [1, -2.5], 'c': None}}
    """
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return {}
    found = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = _literal(node.value)
            except ValueError:
                continue
    return found


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            raise ValueError('a call')
        return {str(word.arg): _literal(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
