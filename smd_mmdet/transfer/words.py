"""What a transfer says: what was done, and what the same Δ does not make the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from smd_mmdet._text import one_line
from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.control import Replay

from .layers import CommonLayers
from .sides import Side
from .writing import Changes, NewConfig

__all__ = ['done', 'not_guaranteed', 'rows']

UNKNOWN = '–'
# Names that a sentence lists before it says how many more there are.
_LISTED = 3
# How near figures are that are taken for the same.
_SAME = 1e-6


def rows(run: Side, config: Side, layers: CommonLayers) -> list[tuple[str, str, str]]:
    """The settings of both side by side.

    Args:
        run: Settings of the run.
        config: Settings of the config.
        layers: The weights that both have.

    Returns:
        Name, value in the run and value in the config, of each setting.
    """

    def row(name: str, told: Callable[[Side], str]) -> tuple[str, str, str]:
        return name, told(run), told(config)

    return [
        row('optimizer', lambda side: side.optimizer or UNKNOWN),
        row('lr, highest', lambda side: _figure(side.lr)),
        row('weight decay', lambda side: _figure(side.weight_decay)),
        row('momentum, β₁', lambda side: _figure(side.momentum)),
        row('batch × accumulation × processes', _batch),
        row(
            'clipping',
            lambda side: UNKNOWN if side.clips is None else side.clips or 'none',
        ),
        row('iterations', lambda side: _count(side.iterations)),
        row('epochs', lambda side: _count(side.epochs)),
        row('steps of the optimizer', lambda side: _count(side.steps)),
        (
            'scale-invariant weights',
            f'{len(layers.own) + len(layers.unused)}',
            f'{layers.controlled}, {len(layers.own)} in common',
        ),
    ]


def done(
    changes: Changes, new: NewConfig, run: Side, config: Side, recorded: int
) -> list[str]:
    """What the new config has that the old one had not.

    Args:
        changes: What that is.
        new: What the new config says.
        run: Settings of the run.
        config: Settings of the config.
        recorded: The last iteration that the run has recorded.

    Returns:
        A sentence each.
    """
    says = 'copies' if changes.copied else 'inherits'
    found = [f'it {says} {new.config}']
    verb = 'replaces the settings of' if changes.replaced else 'adds'
    kept = f', and keeps its exclude ({", ".join(new.exclude)})' if new.exclude else ''
    found.append(
        f'it {verb} SMDRescaleHook: Δ of every scale-invariant weight is set to what '
        f'{new.run} has recorded, measured every {new.every} steps{kept}'
    )
    if changes.monitor:
        found.append('it adds SMDHook, whose records tell Δ beside the wanted one')
    if changes.constructor:
        found.append('it adds SMDOptimWrapperConstructor')
    if new.scale_time:
        found.append(
            f'{recorded:,} recorded iterations are '
            f'{"stretched" if recorded < (config.iterations or 0) else "shortened"} to '
            f'the {_count(config.iterations)} of the config (scale_time=True)'
        )
    if changes.work_dir:
        found.append(
            f'it sets work_dir to {changes.work_dir}: that of the config is the folder '
            'of the run it follows'
        )
    if changes.foreign:
        found.append(f'it leaves optim_wrapper.constructor={changes.foreign} alone')
    return found


def not_guaranteed(
    run: Side,
    config: Side,
    layers: CommonLayers,
    replay: Replay,
    new: NewConfig,
    optimizer: Optimizer,
) -> list[str]:
    """What the same Δ does not make the same.

    Args:
        run: Settings of the run.
        config: Settings of the config.
        layers: The weights that both have.
        replay: What the run has recorded.
        new: What the new config says.
        optimizer: The config's optimizer.

    Returns:
        A sentence each.
    """
    return [
        *_of_weights(layers),
        *_of_batch(run, config),
        *_of_length(run, config, replay),
        *_of_optimizer(run, config, optimizer),
        f'the first {new.every} steps have the Δ that the config gives them, and from '
        "then on the warm-up follows the run's; for what is measured a norm is halved "
        'at most in 20 steps, so that an initialization that is far off takes longer',
        f'{one_line(new.run)} is read when training begins, from the folder where that '
        'is started: keep its records',
    ]


def _of_weights(layers: CommonLayers) -> Iterator[str]:
    rest = 1 - layers.controlled_share
    yield (
        f"heads, biases and the norms' own parameters are not controlled ({rest:.0%} "
        'of all trained numbers): they move as the rate of the config has it'
    )
    if layers.median:
        yield (
            f'{len(layers.median)} of {layers.controlled} weights are not in the run, '
            f'and follow the median of its layers: {_names(layers.median)}'
        )
    if layers.unused:
        yield (
            f'{len(layers.unused)} weights of the run have nothing that follows them: '
            f'{_names(layers.unused)}'
        )


def _of_batch(run: Side, config: Side) -> Iterator[str]:
    ours, theirs = config.images_per_step, run.images_per_step
    if ours is None or theirs is None:
        yield (
            'how many images a step saw in the run is not known: the same Δ from '
            'another batch is another mix of signal and noise'
        )
    elif ours != theirs:
        noise = 'less' if ours > theirs else 'more'
        yield (
            f'a step sees {ours} images, and {theirs} in the run: with the same Δ it '
            f'has {noise} noise in it; a batch k times as large often stands a Δ √k '
            'times as large'
        )


def _of_length(run: Side, config: Side, replay: Replay) -> Iterator[str]:
    if run.iterations and replay.length < run.iterations:
        yield (
            f'the run has records of {replay.length:,} of its {run.iterations:,} '
            'iterations: these are what is followed'
        )
    if run.steps and config.steps and config.steps != run.steps:
        share = config.steps / run.steps
        yield (
            f'Δ is that of a step, and there are {share:.3g} times as many: in all, '
            f'weights turn through {share:.3g} times the Σ Δ², and {share**0.5:.3g} '
            'times as far if steps are independent'
        )
    seen = _images_seen(config), _images_seen(run)
    if None not in seen and seen[0] != seen[1]:
        yield (
            f'the training sees {seen[0] / seen[1]:.3g} times as many images as the '  # type: ignore[operator]
            'run'
        )


def _of_optimizer(run: Side, config: Side, optimizer: Optimizer) -> Iterator[str]:
    if run.optimizer != config.optimizer:
        yield (
            f'{config.optimizer} turns weights in other directions than '
            f'{run.optimizer or "the unknown optimizer of the run"}: how far is the '
            'same, where to is not'
        )
    elif not _close(run.momentum, config.momentum):
        yield (
            'with another momentum, steps point the same way for longer or shorter: '
            'the angle of one step is the same, that of many is not'
        )
    if optimizer.clipping == 'value':
        yield (
            'gradients are clipped by value, and how that answers to another norm is '
            'not derived: Δ is set as if they were not'
        )
    elif optimizer.clipping == 'norm':
        yield (
            'gradients are clipped: their share is measured in training, and Δ may be '
            'off where it changes within a few steps'
        )
    if run.clips and run.clips != config.clips:
        yield (
            f'gradients were clipped in the run ({run.clips}): single large steps '
            'that it has cut off may come back'
        )


def _images_seen(side: Side) -> int | None:
    if None in (side.batch, side.processes, side.iterations):
        return None
    return side.batch * side.processes * side.iterations  # type: ignore[operator]


def _close(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and bool(np.isclose(a, b, rtol=_SAME))


def _names(names: Sequence[str]) -> str:
    listed = ', '.join(map(one_line, names[:_LISTED]))
    more = len(names) - _LISTED
    return listed + (f' and {more} more' if more > 0 else '')


def _batch(side: Side) -> str:
    parts = side.batch, side.accumulation, side.processes
    told = ' × '.join(UNKNOWN if part is None else f'{part}' for part in parts)
    whole = side.images_per_step
    return told if whole is None else f'{told} = {whole}'


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None else f'{value:.4g}'


def _count(value: Any) -> str:
    return UNKNOWN if value is None else f'{value:,}'
