"""A config that follows the angular updates of a run: `smd transfer`.

How far the weights turn in a step is what a schedule of rate and decay comes to. A run
has recorded it; :func:`transfer` makes another config repeat it, whatever its own rate,
decay, optimizer, batch or length are.

- ``sides`` reads the settings of the run and of the config,
- ``layers`` finds the weights that both have,
- ``writing`` makes the new config and writes it,
- ``words`` says what was done, and what nobody can promise.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.config.training import read_training
from smd_mmdet.control import read_replay
from smd_mmdet.records import read_metadata
from smd_mmdet.theory import THEORIES

from .layers import CommonLayers, common_layers
from .sides import Side, side_of_config, side_of_run
from .words import done, not_guaranteed, rows
from .writing import NewConfig, check_bases, check_output, compose, write

__all__ = ['transfer']

# Steps from one measurement of Δ to the next. Δ comes to the run's as a mean, and steps
# stay as different as their gradients are. Where every single step is set, the loss is
# further from the run's (docs/control_evidence.md).
EVERY = 20


@dataclass(frozen=True)
class _Transfer:
    """What was written, and what is to be known of it.

    Args:
        run: Folder of the run that is followed.
        config: The config that is inherited.
        output: The file that was written.
        scale_time: Whether the run is stretched or shortened to the new length.
        run_side: Settings of the run.
        config_side: Settings of the config.
        layers: The weights that both have, and those that they have not.
        settings: The same side by side, in words: name, of the run, of the config.
        done: What the new config has that the old one had not, a sentence each.
        not_guaranteed: What the same Δ does not make the same, a sentence each.
    """

    run: str
    config: str
    output: str
    scale_time: bool
    run_side: Side
    config_side: Side
    layers: CommonLayers
    settings: list[tuple[str, str, str]]
    done: list[str]
    not_guaranteed: list[str]


def transfer(
    run: str | os.PathLike,
    config: str,
    output: str | os.PathLike,
    *,
    force: bool = False,
    iters_per_epoch: int | None = None,
    gpus: int | None = None,
) -> dict[str, Any]:
    """Write a config that inherits another one and follows a run's angular updates.

    The new config has SMDRescaleHook with ``angular_update=dict(run=...)``, and SMDHook
    and SMDOptimWrapperConstructor where the old one has neither. The settings of an
    SMDRescaleHook that is there already are replaced, but for its ``exclude``.

    Args:
        run: Folder of a run trained with SMDHook.
        config: A config's file, or ``package::folder/name.py``.
        output: The file to write, which ends in .py.
        force: Whether to write over a file that is there.
        iters_per_epoch: Training iterations per epoch of the config; None takes them
            from its data set.
        gpus: Training processes; None takes those of the config's name or base batch
            size, as :func:`smd_mmdet.plan.plan` does.

    Returns:
        Plain data: ``output``; ``run_side`` and ``config_side``, the settings of both;
        ``settings``, the same as text; ``layers``; ``scale_time``; ``done`` and
        ``not_guaranteed``, a sentence each.

    Raises:
        SettingError: If the config cannot be read or controlled, or the file not be
            written there; the message is one line.
        RecordsError: If the run has no records of a weight that turns.
        OSError: If the file cannot be written; nothing half-written stays.

    Example:
        >>> transfer('work_dirs/a', 'b.py', 'nowhere/c.py')
        Traceback (most recent call last):
        smd_mmdet.config.errors.SettingError: -o nowhere/c.py: there is no folder
        nowhere
    """
    target, folder = Path(output), str(run)
    check_output(target, config, force)
    replay, metadata = read_replay(folder), read_metadata(folder)
    found = load_config(config)
    check_bases(target, found)
    training = read_training(found, iters_per_epoch, gpus)
    _refuse_unknown_law(training.optimizer)
    exclude = _excluded(found, training.rescaling)
    layers = common_layers(found, config, replay, exclude)
    ours = side_of_config(found, training)
    theirs = side_of_run(folder, metadata)
    new = NewConfig(
        config=config,
        run=folder,
        scale_time=replay.length != training.length.iterations,
        exclude=exclude,
        every=EVERY,
        window=metadata.get('window'),
    )
    composed = compose(new, found, target)
    write(target, composed.text, new)
    told = _Transfer(
        run=folder,
        config=config,
        output=str(target),
        scale_time=new.scale_time,
        run_side=theirs,
        config_side=ours,
        layers=layers,
        settings=rows(theirs, ours, layers),
        done=done(composed.changes, new, theirs, ours, replay.length),
        not_guaranteed=not_guaranteed(
            theirs, ours, layers, replay, new, training.optimizer
        ),
    )
    return asdict(told)


def _refuse_unknown_law(optimizer: Optimizer) -> None:
    """Refuse an optimizer under which nobody knows how Δ follows the norm."""
    law = THEORIES.get(optimizer.theory)
    if law is not None and law.norm_law and not law.indicative:
        return
    known = [t.title for t in THEORIES.values() if t.norm_law and not t.indicative]
    raise SettingError(
        f'optim_wrapper.optimizer: how Δ follows the norm is not derived for '
        f'{optimizer.name} with its settings, so that it cannot be set; take '
        f'{", ".join(known)}'
    )


def _excluded(config: Config, hooks: Any) -> tuple[str, ...]:
    """What the config's own SMDRescaleHook leaves alone."""
    if len(hooks) > 1:
        raise SettingError('custom_hooks: SMDRescaleHook is there twice; leave one out')
    return tuple(hooks[0].exclude) if hooks else ()
