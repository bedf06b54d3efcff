"""Reading settings from a config that may hold anything."""

import difflib
import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import SettingError

if TYPE_CHECKING:
    from mmengine.hooks import Hook

__all__ = ['check_angular_update', 'number', 'section', 'unknown_setting', 'whole']


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
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingError(f'{path} must be an integer >= {least}, got {value!r:.80}')
    return value


def unknown_setting(hook: 'type[Hook]', key: str) -> str:
    """What to say of a setting that a hook does not have."""
    known = [
        name
        for name, parameter in inspect.signature(hook).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    close = difflib.get_close_matches(key, known, n=1)
    hint = f'did you mean {close[0]!r}?' if close else f'it has {", ".join(known)}'
    return f'{hook.__name__} has no setting {key!r}; {hint}'
