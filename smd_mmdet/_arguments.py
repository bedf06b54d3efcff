"""Checks of arguments: each returns the value, or raises an error that names it.

The error is a ``ValueError``, or the subclass of it that the caller asks for. The last
five checks are for numbers and arrays of numbers, and return float64.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def whole_number(
    value: Any,
    name: str,
    least: int = 1,
    error: type[ValueError] = ValueError,
    *,
    most: float = math.inf,
) -> int:
    """An integer, or one of NumPy's, in these bounds; True and False are none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        bounds = f'>= {least}' if most == math.inf else f'from {least} to {most}'
        raise error(f'{name} must be an integer {bounds}, got {value!r:.80}')
    return number


def real_number(
    value: Any,
    name: str,
    least: float = 0.0,
    above: float | None = None,
    error: type[ValueError] = ValueError,
) -> float:
    """A finite number, not below ``least``; or if ``above`` is given, above that."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if real else math.nan
    except OverflowError:  # an integer beyond every float
        number = math.nan
    if above is not None:
        fits, bound = above < number < math.inf, f'> {above:g} and finite'
    else:
        fits = least <= number < math.inf
        bound = 'a number' + (f' >= {least:g}' if least > -math.inf else '')
    if not fits:
        raise error(f'{name} must be {bound}, got {value!r:.80}')
    return number


def true_or_false(value: Any, name: str, error: type[ValueError] = ValueError) -> bool:
    """True or False; 1, 0 and the like are refused."""
    if not isinstance(value, bool):
        raise error(f'{name} must be True or False, got {value!r:.80}')
    return value


def one_of(
    value: Any,
    name: str,
    choices: Collection[Any],
    error: type[ValueError] = ValueError,
) -> Any:
    """A value that is one of the choices."""
    if not any(value is choice or value == choice for choice in choices):
        told = ' or '.join(map(repr, choices))
        raise error(f'{name} must be {told}, got {value!r:.80}')
    return value


def finite(value: ArrayLike, name: str) -> np.ndarray:
    """A number or an array of numbers, none of which is NaN or infinite."""
    try:
        if np.asarray(value).dtype.kind not in 'biufO':
            raise TypeError
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        # RuntimeError: torch's, of a tensor that requires a gradient
        raise ValueError(
            f'{name} must be a number or an array of numbers, got {value!r}'
        ) from None
    if not np.isfinite(array).all():
        raise ValueError(f'{name} must be finite, got {value!r}')
    return array


def positive(value: ArrayLike, name: str) -> np.ndarray:
    """Finite numbers above 0."""
    array = finite(value, name)
    if (array <= 0).any():
        raise ValueError(f'{name} must be > 0, got {value!r}')
    return array


def non_negative(value: ArrayLike, name: str) -> np.ndarray:
    """Finite numbers, none below 0."""
    array = finite(value, name)
    if (array < 0).any():
        raise ValueError(f'{name} must be >= 0, got {value!r}')
    return array


def fraction(value: ArrayLike, name: str) -> np.ndarray:
    """Numbers from 0 up to, but not including, 1."""
    array = finite(value, name)
    if ((array < 0) | (array >= 1)).any():
        raise ValueError(f'{name} must be in [0, 1), got {value!r}')
    return array


def angles_of_steps(
    value: Any, name: str, error: type[ValueError] = ValueError
) -> np.ndarray:
    """Angles in radians that a step can turn a weight through: above 0, up to π/2."""
    try:
        angles = finite(value, name)
    except ValueError as fault:
        raise error(f'{str(fault)!s:.200}') from None
    if np.asarray(value).dtype.kind == 'b':
        raise error(f'{name} must be angles in radians, got {value!r:.80}')
    if not angles.size:
        raise error(f'{name} must not be empty')
    wrong = ~((angles > 0) & (angles <= math.pi / 2))
    if not wrong.any():
        return angles
    bounds = f'{name} must be above 0 and at most π/2 rad per step'
    if not angles.ndim:
        raise error(f'{bounds}, got {value!r:.80}')
    first = int(np.argmax(wrong.reshape(len(angles), -1).any(axis=1)))
    found = float(angles[first][wrong[first]].flat[0])
    hint = '; let a schedule end above 0 (eta_min, end_factor)' * (found == 0)
    raise error(
        f'{bounds}, but is {found:g} at number {first + 1} of {len(angles)}{hint}'
    )
