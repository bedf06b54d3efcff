"""Settings of SMDRescaleHook, which the hook follows and a plan foresees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smd_mmdet._arguments import real_number, true_or_false

from .errors import SettingError
from .settings import check_patterns, unknown_setting, whole

__all__ = ['RescaleSettings', 'StartSettings']

_HOOK = 'SMDRescaleHook'
_KEY = f'{_HOOK}: start_at_equilibrium'


@dataclass(frozen=True)
class StartSettings:
    """When and how far layers are put at their equilibrium.

    Args:
        begin: Iterations before the first measuring phase; None for the end of the
            warm-up, the first iteration at which no learning rate rises.
        measure: Iterations of a measuring phase.
        repeats: Most rescalings. There are fewer where all layers are found at their
            equilibrium already.
        max_factor: Bounds a factor to [1/max_factor, max_factor].
        tolerance: A factor this close to 1 is none.
    """

    begin: int | None = None
    measure: int = 100
    repeats: int = 3
    max_factor: float = 4.0
    tolerance: float = 0.03

    @classmethod
    def of(cls, setting: object) -> StartSettings | None:
        """Settings from what a config says; None for False.

        Raises:
            SettingError: If a value cannot be.
        """
        if isinstance(setting, bool):
            return cls() if setting else None
        if not isinstance(setting, Mapping):
            raise SettingError(f'{_KEY} must be True, False or a dict, got {setting!r}')
        known = list(cls.__dataclass_fields__)
        for key in setting:
            if key not in known:
                raise SettingError(f'{_KEY} has no {key!r}; it has {", ".join(known)}')
        settings = cls(**setting)
        if settings.begin is not None:
            whole(settings.begin, f'{_KEY}: begin', 0)
        whole(settings.measure, f'{_KEY}: measure')
        whole(settings.repeats, f'{_KEY}: repeats')
        real_number(
            settings.max_factor, f'{_KEY}: max_factor', above=1, error=SettingError
        )
        real_number(
            settings.tolerance, f'{_KEY}: tolerance', above=0, error=SettingError
        )
        return settings


@dataclass(frozen=True)
class RescaleSettings:
    """When SMDRescaleHook rescales, and what it leaves alone.

    Args:
        at_lr_drops: Whether it rescales where a learning rate drops in a step.
        continuous: Whether it rescales at every other change of a rate as well.
        start: When and how far layers are put at their equilibrium after the warm-up;
            None if they are not.
        exclude: Names or patterns of weights that are left alone.
    """

    at_lr_drops: bool
    continuous: bool
    start: StartSettings | None
    exclude: tuple[str, ...]

    @classmethod
    def of(
        cls,
        at_lr_drops: object = True,
        continuous: object = False,
        start_at_equilibrium: object = False,
        exclude: object = None,
        **unknown: object,
    ) -> RescaleSettings:
        """Settings from the arguments of the hook, as a config has them.

        Raises:
            SettingError: On an unknown setting or a value that cannot be.
        """
        known = ('at_lr_drops', 'continuous', 'start_at_equilibrium', 'exclude')
        for key in unknown:
            raise SettingError(unknown_setting(_HOOK, key, known))
        settings = cls(
            true_or_false(at_lr_drops, f'{_HOOK}: at_lr_drops', SettingError),
            true_or_false(continuous, f'{_HOOK}: continuous', SettingError),
            StartSettings.of(start_at_equilibrium),
            tuple(check_patterns(f'{_HOOK}: exclude', exclude)),
        )
        if continuous and not at_lr_drops:
            raise SettingError(f'{_HOOK}: continuous=True needs at_lr_drops=True')
        if not at_lr_drops and settings.start is None:
            raise SettingError(
                f'{_HOOK}: at_lr_drops=False and start_at_equilibrium=False '
                'leave nothing to do; set one of them, or leave the hook out'
            )
        return settings
