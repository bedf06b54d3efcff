"""How gradients are clipped, in words, and what that leaves to be foreseen."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet._text import visible
from smd_mmdet.theory import Theory

__all__ = ['clipping_settings', 'percent', 'unforeseen']

_SETTINGS = ('max_norm', 'norm_type', 'clip_value')


def unforeseen(
    law: Theory | None, clipping: Mapping[str, Any] | None, shares: ArrayLike
) -> str:
    """Why nothing can be predicted of what is to come under clipping.

    Equilibrium and the law of the moment follow from the gradient that is applied. How
    the norm will move follows only from how often gradients are clipped.

    Args:
        law: What is known of the optimizer.
        clipping: How the records' metadata say that gradients are clipped; None where
            they are not, or nothing is said of it.
        shares: Share of clipped steps; NaN where it is not known.

    Returns:
        A clause; empty where it can be predicted.

    Example:
        >>> from smd_mmdet.theory import THEORIES
        >>> by_norm = {'type': 'norm', 'max_norm': 35}
        >>> unforeseen(THEORIES['sgd'], by_norm, 0.5)
        ''
        >>> print(unforeseen(THEORIES['sgd'], {'type': 'value'}, np.nan))
        gradients are clipped by value, which bends single numbers of them
        >>> unforeseen(THEORIES['sgd'], by_norm, np.nan)
        'the records do not tell how often gradients were clipped'
        >>> unforeseen(THEORIES['adamw'], by_norm, np.nan)
        ''
    """
    kind = (clipping or {}).get('type')
    if kind is None:
        return ''
    if kind == 'value':
        return 'gradients are clipped by value, which bends single numbers of them'
    if law is not None and not law.clips:
        return ''
    if kind == 'norm':
        unknown = np.isnan(np.asarray(shares, dtype=np.float64)).any()
        told = 'the records do not tell how often gradients were clipped'
        return told if unknown else ''
    return visible((clipping or {}).get('reason') or 'gradients may be clipped')


def clipping_settings(clipping: Mapping[str, Any] | None) -> str:
    """The arguments with which gradients are clipped.

    Args:
        clipping: What the records' metadata say of it.

    Returns:
        Names and values; empty where none are known.

    Example:
        >>> clipping_settings({'type': 'norm', 'max_norm': 35, 'norm_type': 2})
        'max_norm 35, norm_type 2'
    """
    known = clipping or {}
    return visible(', '.join(f'{n} {known[n]}' for n in _SETTINGS if n in known))


def percent(share: float) -> str:
    """A share in per cent, in which some is neither none nor all.

    Example:
        >>> [percent(share) for share in (0.0, 0.0004, 0.47, 0.9999, 1.0)]
        ['0 %', '0.04 %', '47 %', '99.99 %', '100 %']
    """
    digits = 0 if share in (0, 1) or 0.01 <= share <= 0.99 else 2
    return f'{100 * share:.{digits}f} %'
