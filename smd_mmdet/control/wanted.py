"""The angular update that is wanted of each layer in each step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from smd_mmdet._arguments import angles_of_steps
from smd_mmdet.theory import Theory

from .replay import Replay, read_replay

__all__ = ['EQUILIBRIUM', 'Wanted']

EQUILIBRIUM = 'equilibrium'


class Wanted:
    """Tells the angular updates that are wanted of some layers.

    Args:
        angular_update: Radians per step: a number; an array with one for each step, or
            of shape (steps, layers); a function of the step's number, counted from 0;
            'equilibrium', for Δ* of each step's learning rate and weight decay; the
            folder of a run with records, or what :func:`.read_replay` has made of it.
            After the last step of an array or run its last value is kept.
        names: Names of the layers.
        law: What is known of the optimizer's equilibrium.

    Raises:
        ValueError: If it is none of these, or asks for what no step can do; the
            message names ``angular_update``. RecordsError is one, too.

    Example:
        >>> from smd_mmdet.theory import THEORIES
        >>> settings = np.array([[[0.1, 1e-4, 0.9]], [[0.01, 1e-4, 0.9]]])
        >>> for angular_update in (2e-3, [1e-3, 2e-3, 4e-3], 'equilibrium'):
        ...     wanted = Wanted(angular_update, ['conv.weight'], THEORIES['sgd'])
        ...     print(wanted.at(1, settings).ravel().round(5).tolist())
        [0.002, 0.002]
        [0.002, 0.004]
        [0.00324, 0.00103]
    """

    def __init__(
        self,
        angular_update: object,
        names: Sequence[str],
        law: Theory,
    ) -> None:
        self._names, self._law = list(names), law
        self._source = self._read(angular_update)
        if callable(self._source):
            self._checked(self._source, [0])

    def at(self, first: int, settings: np.ndarray) -> np.ndarray:
        """The angular updates of some steps in a row.

        Args:
            first: Number of the first step, counted from 0.
            settings: Learning rate, weight decay and momentum that each step will have
                for each layer; shape (steps, layers, 3).

        Returns:
            Shape (steps, layers), radians; NaN where there is no equilibrium.
        """
        shape = settings.shape[:2]
        steps = np.arange(first, first + shape[0])
        source = self._source
        if source is None:
            squares = self._law.angular_update_sq(*np.moveaxis(settings, -1, 0))
            squares = np.where(squares > 0, squares, np.nan)
            return np.broadcast_to(np.sqrt(squares), shape).clip(max=math.pi / 2)
        if isinstance(source, Replay):
            return source.at(steps, self._names)
        if callable(source):
            return np.broadcast_to(self._checked(source, steps), shape)
        if source.ndim:
            source = source[steps.clip(max=len(source) - 1)]
        return np.broadcast_to(source, shape)

    def _read(self, given: object) -> np.ndarray | Replay | Callable | None:
        if isinstance(given, str) and given == EQUILIBRIUM:
            return None
        if isinstance(given, Replay) or callable(given):
            return given
        if isinstance(given, (str, os.PathLike)):
            if not Path(given).is_dir():
                raise ValueError(
                    'angular_update must be a number, one for each step, a function, '
                    f"'equilibrium' or the folder of a run, and {str(given)!r} is no "
                    'folder'
                )
            return read_replay(given)
        angles = angles_of_steps(given, 'angular_update')
        if angles.ndim == 1:
            return angles[:, None]
        if angles.ndim > 2 or angles.shape[-1:] not in ((), (len(self._names),)):
            raise ValueError(
                'angular_update must have one value per step, or shape (steps, '
                f'{len(self._names)}) with one for each layer, got {angles.shape}'
            )
        return angles

    def _checked(
        self, source: Callable, steps: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        angles = np.empty((len(steps), len(self._names)))
        for row, step in zip(angles, steps, strict=True):
            name = f'angular_update({step})'
            found = angles_of_steps(source(int(step)), name)
            if found.shape not in ((), (1,), row.shape):
                raise ValueError(
                    f'{name} must be a number, or one for each of {len(row)} layers, '
                    f'got {found.shape}'
                )
            row[:] = found
        return angles
