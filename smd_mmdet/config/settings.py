"""Checks of what a config says: each gives the value back, or an error with its key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from smd_mmdet._arguments import real_number, true_or_false, whole_number
from smd_mmdet._text import did_you_mean
from smd_mmdet.theory import THEORIES, Theory

from .errors import SettingError

__all__ = [
    'check_angular_update',
    'check_patterns',
    'flag',
    'number',
    'section',
    'text',
    'unknown_setting',
    'whole',
]

# No count is as large, and up to here a float holds every integer.
_MOST = 2**53


def section(settings: Mapping, path: str) -> Mapping:
    """A section of a config, as a dict.

    Args:
        settings: The dict that the section is in, or the whole config.
        path: Dotted name of the section; its last part is the key in ``settings``.

    Returns:
        The section, or an empty dict if it is missing or None.

    Raises:
        SettingError: If something else than a dict stands there.

    Example:
        >>> section({'model': {'backbone': {'depth': 50}}}['model'], 'model.backbone')
        {'depth': 50}
    """
    found = settings.get(path.rpartition('.')[2])
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise SettingError(f'{path} must be a dict, got {found!r:.80}')
    return found


def number(value: Any, path: str, least: float = 0.0) -> float:
    """A finite number that is not below ``least``.

    Args:
        value: What the config says.
        path: Dotted name of the setting.
        least: The smallest value that is taken.

    Returns:
        The value as a float.

    Raises:
        SettingError: If the value is anything else.

    Example:
        >>> number('fast', 'optim_wrapper.optimizer.lr')
        Traceback (most recent call last):
        smd_mmdet.config.errors.SettingError: optim_wrapper.optimizer.lr must be a
        number >= 0, got 'fast'
    """
    return real_number(value, path, least, error=SettingError)


def whole(value: Any, path: str, least: int = 1) -> int:
    """A whole number that is not below ``least``.

    Args:
        value: What the config says.
        path: Dotted name of the setting.
        least: The smallest value that is taken.

    Returns:
        The value.

    Raises:
        SettingError: If the value is anything else, or too large for any count.
    """
    found = whole_number(value, path, least, SettingError)
    if found > _MOST:
        raise SettingError(f'{path} must be an integer <= {_MOST}, got {found!r:.80}')
    return found


def flag(value: Any, path: str) -> bool:
    """True or False; 1, 0 and None count as such, as they do in MMEngine.

    Args:
        value: What the config says.
        path: Dotted name of the setting.

    Returns:
        The value as a bool.

    Raises:
        SettingError: If the value is anything else.
    """
    if value is None:
        return False
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    return true_or_false(value, path, SettingError)


def text(value: Any, path: str) -> str:
    """A text or a path; None counts as an empty text.

    Args:
        value: What the config says.
        path: Dotted name of the setting.

    Returns:
        The text.

    Raises:
        SettingError: If the value is anything else.
    """
    if value is None:
        return ''
    if not isinstance(value, (str, os.PathLike)):
        raise SettingError(f'{path} must be a text, got {value!r:.80}')
    return str(value)


def check_angular_update(theory_name: str) -> Theory:
    """Refuse ``angular_update`` for an optimizer whose weight decay does not set it.

    Args:
        theory_name: Name of the theory that holds under the optimizer, or 'none'.

    Returns:
        The theory.

    Raises:
        SettingError: If no law of the norm is known under the optimizer, or a rough
            one only.
    """
    law = THEORIES.get(theory_name)
    if law is None or not law.norm_law or law.indicative:
        raise SettingError(
            'paramwise_cfg.angular_update is derived for SGD, AdamW and NAdam with '
            'decoupled decay; choose one of these optimizers, or leave the key out'
        )
    return law


def unknown_setting(owner: str, key: str, known: Sequence[str]) -> str:
    """What to say of a setting that a hook does not have.

    Args:
        owner: Name of the hook.
        key: The setting it was given.
        known: The settings it has.

    Returns:
        One sentence, with the setting that may have been meant.
    """
    hint = did_you_mean(key, known) or f'it has {", ".join(known)}'
    return f'{owner} has no setting {key!r}; {hint}'


def check_patterns(key: str, patterns: object) -> list[str]:
    """A list of names or patterns, from one or several.

    Args:
        key: Name of the setting.
        patterns: What the config says: None, a text, or several texts.

    Returns:
        The patterns; an empty list for None.

    Raises:
        SettingError: If it is anything else.
    """
    if patterns is None:
        return []
    if isinstance(patterns, str):
        return [patterns]
    if isinstance(patterns, Iterable) and not isinstance(patterns, np.ndarray):
        patterns = list(patterns)
        if all(isinstance(pattern, str) for pattern in patterns):
            return patterns
    raise SettingError(f'{key} must be a list of names or patterns, got {patterns!r}')
