"""Reading settings from a config that may hold anything."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smd_mmdet._arguments import whole_number
from smd_mmdet._text import did_you_mean

from .errors import SettingError

__all__ = [
    'check_angular_update',
    'check_patterns',
    'number',
    'section',
    'unknown_setting',
    'whole',
]


def section(settings: Mapping, path: str) -> Mapping:
    """The dict under the last name of a dotted path; an empty one for none.

    Raises:
        SettingError: If there is something else.
    """
    found = settings.get(path.rpartition('.')[2])
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise SettingError(f'{path} must be a dict, got {found!r:.80}')
    return found


def check_angular_update(theory_name: str) -> None:
    """Raise SettingError if ``angular_update`` is not derived for an optimizer.

    Args:
        theory_name: Of the optimizer, or 'none'.
    """
    if theory_name != 'sgd':
        raise SettingError(
            'paramwise_cfg.angular_update is derived for SGD without nesterov and '
            'dampening; choose that optimizer, or leave the key out'
        )


def number(value: Any, path: str, least: float = 0.0) -> float:
    """A finite number that is not below ``least``.

    Raises:
        SettingError: If it is anything else.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, str) or not least <= found < math.inf:
        raise SettingError(f'{path} must be a number >= {least:g}, got {value!r:.80}')
    return found


def whole(value: Any, path: str, least: int = 1) -> int:
    """A whole number that is not below ``least``.

    Raises:
        SettingError: If it is anything else.
    """
    return whole_number(value, path, least, SettingError)


def unknown_setting(owner: str, key: str, known: Sequence[str]) -> str:
    """What to say of a setting that a hook does not have.

    Args:
        owner: Name of the hook.
        key: The setting it was given.
        known: The settings it has.
    """
    hint = did_you_mean(key, known) or f'it has {", ".join(known)}'
    return f'{owner} has no setting {key!r}; {hint}'


def check_patterns(key: str, patterns: object) -> list[str]:
    """A list of patterns, from one or several.

    Raises:
        SettingError: If it is anything else.
    """
    if patterns is None:
        return []
    if isinstance(patterns, str):
        return [patterns]
    if isinstance(patterns, Iterable):
        patterns = list(patterns)
        if all(isinstance(pattern, str) for pattern in patterns):
            return patterns
    raise SettingError(f'{key} must be a list of names or patterns, got {patterns!r}')
