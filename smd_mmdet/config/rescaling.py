"""Settings of SMDRescaleHook, which the hook follows and a plan foresees."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mmengine.config import Config

from smd_mmdet._arguments import real_number, true_or_false

from .control import ControlSettings
from .errors import SettingError
from .settings import check_patterns, unknown_setting, whole
from .types import names_class

__all__ = ['RescaleSettings', 'StartSettings', 'read_rescaling']

_HOOK = 'SMDRescaleHook'
_KEY = f'{_HOOK}: start_at_equilibrium'
# Keys of a hook in a config that MMEngine keeps to itself.
_OF_MMENGINE = ('type', 'priority', '_scope_')


@dataclass(frozen=True)
class StartSettings:
    """When and how far layers are put at their equilibrium.

    Args:
        begin: Iterations before the first measuring phase; None for the end of the
            warm-up, the first iteration at which no learning rate rises.
        measure: Iterations of a measuring phase.
        repeats: Largest number of rescalings. There are fewer where all layers are
            found at their equilibrium already.
        max_factor: Bound of a factor, which lies in [1/max_factor, max_factor].
        tolerance: Distance from 1 up to which a factor is not applied, because the
            layer is at its equilibrium already.
    """

    begin: int | None = None
    measure: int = 100
    repeats: int = 3
    max_factor: float = 4.0
    tolerance: float = 0.03

    @classmethod
    def of(cls, setting: object) -> StartSettings | None:
        """Read ``start_at_equilibrium``.

        Args:
            setting: What a config says: True, False, or a dict of settings.

        Returns:
            The settings; None for False.

        Raises:
            SettingError: If a setting is unknown, or its value cannot be.
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
        at_lr_drops: Whether the hook rescales where a learning rate drops in a step.
        continuous: Whether the hook rescales at every other change of a rate as well.
        start: When and how far layers are put at their equilibrium after the warm-up;
            None if they are not.
        exclude: Names or patterns of weights that are left alone.
        control: Which angular update is set at every moment; None if none is. With it
            nothing is left to do at drops or at the start, and both are off.
    """

    at_lr_drops: bool
    continuous: bool
    start: StartSettings | None
    exclude: tuple[str, ...]
    control: ControlSettings | None = None

    @classmethod
    def of(
        cls,
        at_lr_drops: object = True,
        continuous: object = False,
        start_at_equilibrium: object = False,
        exclude: object = None,
        angular_update: object = None,
        every: object = 1,
        **unknown: object,
    ) -> RescaleSettings:
        """Read the arguments of the hook.

        Args:
            at_lr_drops: Whether to rescale at steps of the rate.
            continuous: Whether to rescale at every other change of a rate as well.
            start_at_equilibrium: True, False or a dict, as :class:`StartSettings` has.
            exclude: Names or patterns of weights to leave alone.
            angular_update: The Δ to set, as :class:`.ControlSettings` reads it.
            every: Steps from one measurement of Δ to the next.
            unknown: Any other setting, which is refused.

        Returns:
            The settings.

        Raises:
            SettingError: If a setting is unknown, or its value cannot be.
        """
        known = [name for name in inspect.signature(cls.of).parameters][:-1]
        for key in unknown:
            raise SettingError(unknown_setting(_HOOK, key, known))
        settings = cls(
            true_or_false(at_lr_drops, f'{_HOOK}: at_lr_drops', SettingError),
            true_or_false(continuous, f'{_HOOK}: continuous', SettingError),
            StartSettings.of(start_at_equilibrium),
            tuple(check_patterns(f'{_HOOK}: exclude', exclude)),
        )
        if (control := ControlSettings.of(angular_update, every)) is not None:
            return settings._with(control)
        if continuous and not at_lr_drops:
            raise SettingError(f'{_HOOK}: continuous=True needs at_lr_drops=True')
        if not at_lr_drops and settings.start is None:
            raise SettingError(
                f'{_HOOK}: at_lr_drops=False and start_at_equilibrium=False '
                'leave nothing to do; set one of them, or leave the hook out'
            )
        return settings

    def _with(self, control: ControlSettings) -> RescaleSettings:
        """The settings with a control; refuses what it leaves without a meaning."""
        for key, given in (
            ('start_at_equilibrium', self.start is not None),
            ('continuous', self.continuous),
        ):
            if given:
                raise SettingError(
                    f'{_HOOK}: {key} and angular_update are two ways to set the norms; '
                    f"leave {key} out (angular_update='equilibrium' does all it does)"
                )
        return replace(self, at_lr_drops=False, control=control)


def read_rescaling(config: Config) -> tuple[RescaleSettings, ...]:
    """Read the settings of every SMDRescaleHook of a config.

    Args:
        config: The config.

    Returns:
        The settings, in the order of ``custom_hooks``.

    Raises:
        SettingError: If ``custom_hooks`` is no list, or a setting cannot be.

    Example:
        >>> config = Config(dict(custom_hooks=[dict(type='SMDRescaleHook')]))
        >>> [hook.at_lr_drops for hook in read_rescaling(config)]
        [True]
    """
    hooks = config.get('custom_hooks')
    if hooks is None:
        return ()
    if not isinstance(hooks, (list, tuple)):
        raise SettingError(f'custom_hooks must be a list of dicts, got {hooks!r:.80}')
    return tuple(
        RescaleSettings.of(
            **{str(key): hook[key] for key in hook if key not in _OF_MMENGINE}
        )
        for hook in hooks
        if isinstance(hook, Mapping) and names_class(hook, _HOOK)
    )
