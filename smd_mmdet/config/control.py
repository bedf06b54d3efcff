"""Settings of the wanted angular update, and what they are at every iteration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smd_mmdet._arguments import angles_of_steps, true_or_false
from smd_mmdet.control import Replay, read_replay
from smd_mmdet.records import RecordsError

from .errors import SettingError
from .schedulers import drive, waits_for_score
from .settings import unknown_setting, whole
from .types import type_name

__all__ = ['EQUILIBRIUM', 'ControlSettings']

_KEY = 'SMDRescaleHook: angular_update'
_FORMS = "'equilibrium', a number, the folder of a run, or a dict of settings"
EQUILIBRIUM = 'equilibrium'


@dataclass(frozen=True)
class ControlSettings:
    """Which angular update is set, and how often.

    One of ``equilibrium``, ``value`` and ``run`` is given.

    Args:
        equilibrium: Whether it is Δ* of each step's learning rate and weight decay.
        value: Wanted Δ in radians per step, where no scheduler changes it.
        schedulers: Settings of MMEngine's schedulers, which change it as they would
            change a learning rate.
        run: Folder of a run whose recorded Δ is repeated.
        scale_time: Whether the run is stretched or shortened to the new length.
        every: Steps of the optimizer from one measurement to the next.

    Example:
        >>> cosine = dict(type='CosineAnnealingLR', by_epoch=False, eta_min=1e-3)
        >>> settings = ControlSettings.of(dict(value=4e-3, param_scheduler=[cosine]))
        >>> settings.per_iteration(iterations=4, iters_per_epoch=2).round(5).tolist()
        [0.004, 0.00356, 0.0025, 0.00144]
        >>> ControlSettings.of('work_dirs/a').run
        'work_dirs/a'
    """

    equilibrium: bool = False
    value: float | None = None
    schedulers: tuple[dict, ...] = ()
    run: str | None = None
    scale_time: bool = False
    every: int = 1

    def __str__(self) -> str:
        """What is wanted, in a few words."""
        if self.equilibrium:
            return 'that of equilibrium'
        if self.run is not None:
            return f'that of {self.run}' + ', scaled in time' * self.scale_time
        kinds = ', '.join(str(type_name(one)) for one in self.schedulers)
        return f'{self.value:g} rad' + f', scheduled by {kinds}' * bool(kinds)

    @classmethod
    def of(cls, setting: object, every: object = 1) -> ControlSettings | None:
        """Read ``angular_update`` and ``every``.

        Args:
            setting: What a config says of the first.
            every: What it says of the second.

        Returns:
            The settings; None where no angular update is set.

        Raises:
            SettingError: If a setting is unknown, or its value cannot be.
        """
        steps = whole(every, 'SMDRescaleHook: every')
        if setting is None or setting is False:
            return None
        if isinstance(setting, (str, os.PathLike)):
            if setting == EQUILIBRIUM:
                return cls(equilibrium=True, every=steps)
            return cls(run=_folder(setting, _KEY), every=steps)
        if not isinstance(setting, Mapping):
            if isinstance(setting, (bool, bytes, Sequence, np.ndarray)):
                raise SettingError(f'{_KEY} must be {_FORMS}, got {setting!r:.80}')
            return cls(value=_angle(setting, _KEY), every=steps)
        kind, known = ('run', ['run', 'scale_time'])
        if 'run' not in setting:
            kind, known = 'value', ['value', 'param_scheduler']
        for key in setting:
            if key not in known:
                raise SettingError(unknown_setting(_KEY, str(key), known))
        if kind not in setting:
            raise SettingError(f'{_KEY} needs value=..., or run=...')
        if kind == 'run':
            run = _folder(setting['run'], f'{_KEY}.run')
            scale = setting.get('scale_time', False)
            scale = true_or_false(scale, f'{_KEY}.scale_time', SettingError)
            return cls(run=run, scale_time=scale, every=steps)
        value = _angle(setting['value'], f'{_KEY}.value')
        schedulers = _schedulers(setting.get('param_scheduler'))
        return cls(value=value, schedulers=schedulers, every=steps)

    def per_iteration(
        self,
        iterations: int,
        iters_per_epoch: int | None,
        by_epoch: bool = True,
        scope: str | None = None,
    ) -> np.ndarray:
        """The wanted Δ of every iteration, where it is a number or a schedule.

        Args:
            iterations: Iterations of the whole training.
            iters_per_epoch: Iterations of an epoch; None where nothing asks for them.
            by_epoch: Whether the training loop counts epochs.
            scope: ``default_scope`` of the config.

        Returns:
            Radians per step; shape (iterations,).

        Raises:
            SettingError: If a scheduler cannot be built, or comes to an angle that no
                step can have.
        """
        for one in self.schedulers:
            converted = one.get('convert_to_iter_based', False)
            if one.get('by_epoch', True) and not (by_epoch or converted):
                raise SettingError(
                    f'{_KEY}.param_scheduler: {type_name(one)} counts epochs, and this '
                    'training loop has none: by_epoch=False'
                )
        # The schedulers act on the rate of an optimizer that trains nothing.
        dummy = torch.optim.SGD([torch.zeros(1)], lr=self.value or 1.0)
        try:
            rates, _, moved = drive(
                self.schedulers, dummy, iterations, iters_per_epoch, by_epoch, scope
            )
        except SettingError as fault:
            raise SettingError(f'{_KEY}.{fault}') from fault
        if others := sorted(moved - {'lr'}):
            raise SettingError(
                f'{_KEY}.param_scheduler changes {others[0]}; take schedulers of the '
                'learning rate, which here change Δ'
            )
        return angles_of_steps(rates[0], f'{_KEY}.param_scheduler', SettingError)

    def replay(self, iterations: int, steps: int) -> Replay:
        """The run that is repeated, fitted to a training.

        Args:
            iterations: Iterations of the whole training.
            steps: Steps of its optimizer.

        Returns:
            Its recorded Δ by step of the training.

        Raises:
            SettingError: If it has no records, or too few.
        """
        folder = self.run or ''
        try:
            found = read_replay(folder)
        except RecordsError as fault:
            raise SettingError(f'{_KEY}={folder!r}: {fault}') from fault
        if self.scale_time:
            return found.over(steps)
        if found.length < iterations:
            raise SettingError(
                f'{_KEY}={folder!r}: it has records of {found.length:,} iterations, '
                f'and this training has {iterations:,}; train no longer, or stretch '
                f'it: angular_update=dict(run={folder!r}, scale_time=True)'
            )
        return found.at_pace(iterations / steps)


def _angle(value: Any, key: str) -> float:
    if isinstance(value, (bool, bytes)) or np.ndim(value):
        raise SettingError(f'{key} must be a number, got {value!r:.80}')
    return float(angles_of_steps(value, key, SettingError))


def _folder(value: Any, key: str) -> str:
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise SettingError(f'{key} must be the folder of a run, got {value!r:.80}')
    return str(value)


def _schedulers(found: Any) -> tuple[dict, ...]:
    key = f'{_KEY}.param_scheduler'
    if found is None:
        return ()
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, Sequence) or not all(
        isinstance(s, Mapping) for s in found
    ):
        raise SettingError(f'{key} must be a list of dicts, got {found!r:.80}')
    for one in found:
        if 'type' not in one:
            raise SettingError(f'{key}: {dict(one)!r:.80} needs a type')
        if waits_for_score(one):
            raise SettingError(
                f'{key}: {type_name(one)} follows a score, which nobody knows ahead; '
                'take another'
            )
    return tuple(dict(one) for one in found)
