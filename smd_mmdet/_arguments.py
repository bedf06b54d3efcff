"""Checks of arguments: each gives the value back, or an error that names the argument.

The error is a ``ValueError``, or the subclass of it that the caller asks for.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any


def whole_number(
    value: Any, name: str, least: int = 1, error: type[ValueError] = ValueError
) -> int:
    """An integer that is not below ``least``; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise error(f'{name} must be an integer >= {least}, got {value!r:.80}')
    return value


def real_number(
    value: Any,
    name: str,
    least: float = 0.0,
    above: float | None = None,
    error: type[ValueError] = ValueError,
) -> float:
    """A finite number that is not below ``least``, or that is above ``above``."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if real else math.nan
    except OverflowError:  # an integer beyond every float
        number = math.nan
    if above is not None:
        fits, bound = above < number < math.inf, f'> {above:g}'
    else:
        fits = least <= number < math.inf
        bound = 'a number' + (f' >= {least:g}' if least > -math.inf else '')
    if not fits:
        raise error(f'{name} must be {bound}, got {value!r:.80}')
    return number


def true_or_false(value: Any, name: str, error: type[ValueError] = ValueError) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool):
        raise error(f'{name} must be True or False, got {value!r:.80}')
    return value


def one_of(
    value: Any,
    name: str,
    choices: Collection[Any],
    error: type[ValueError] = ValueError,
) -> Any:
    """One of a few values."""
    if not any(value is choice or value == choice for choice in choices):
        told = ' or '.join(map(repr, choices))
        raise error(f'{name} must be {told}, got {value!r:.80}')
    return value
