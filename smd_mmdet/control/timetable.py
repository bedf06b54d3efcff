"""When weights are looked at: every so many steps, and where something jumps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from smd_mmdet.monitor.weights import MeasuredWeights

from .wanted import Wanted

__all__ = ['Ahead', 'Timetable']

# Learning rates of the steps to come, over that of the first of them; shape (steps,).
Ahead = Callable[[int, int], np.ndarray]

# Change of Δ_wanted/η from one step to the next, as a logarithm, that is a jump: a
# mean over the steps before and after it would be right for neither.
_JUMP = 0.1
# Distance of a learning rate from what it was taken to be, likewise.
_SURPRISE = 0.05


class Timetable:
    """Tells when it is time for a control, and what is wanted until the next one.

    It looks at nothing but numbers on the host, which are the same in all processes.

    Args:
        optimizer: The optimizer.
        weights: The weights by name.
        wanted: What is wanted of them.
        every: Steps from one measurement to the next.
        ahead: Tells the learning rates of some steps from one on, relative to that of
            the first, where the schedule is known. None takes the rates as constant:
            where they turn out not to be, there is a control more.
        done: Steps that are done.

    Attributes:
        done: Steps that are done.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        weights: Mapping[str, nn.Parameter],
        wanted: Wanted,
        every: int,
        ahead: Ahead | None = None,
        done: int = 0,
    ) -> None:
        self.done = done
        self._optimizer, self._wanted = optimizer, wanted
        self._every, self._ahead = every, ahead
        self._read = MeasuredWeights(optimizer, weights)
        self._regular = self._next = done + every
        # The rates that the last control has counted on: the first of these steps, and
        # shape (steps, layers). None before it.
        self._planned: tuple[int, np.ndarray] | None = None

    def advance(self) -> bool:
        """Count a step as done; whether it is time for a control."""
        self.done += 1
        if self.done >= self._next:
            return True
        if self._planned is None:
            return False
        first, planned = self._planned
        expected, now = planned[self.done - first], self.settings()[:, 0]
        with np.errstate(divide='ignore', invalid='ignore'):
            apart = np.abs(np.log(now / expected))
        return bool((apart > _SURPRISE).any())

    def plan(self) -> tuple[np.ndarray, np.ndarray]:
        """The steps up to the next control.

        Returns:
            The wanted Δ, shape (steps, layers), and the settings that are counted on,
            shape (steps, layers, 3).
        """
        if self.done >= self._regular:
            self._regular = self.done + self._every
        steps = self._regular - self.done
        settings = np.tile(self.settings(), (steps, 1, 1))
        if self._ahead is not None:
            settings[..., 0] *= self._ahead(self.done, steps)[:, None]
        wanted = self._wanted.at(self.done, settings)
        steps = _until_jump(wanted, settings[..., 0])
        self._next = self.done + steps
        self._planned = self.done, settings[:steps, :, 0]
        return wanted[:steps], settings[:steps]

    def wanted_now(self) -> np.ndarray:
        """The wanted Δ of the step to come; shape (layers,), NaN for none."""
        return self._wanted.at(self.done, self.settings()[None])[0]

    def settings(self) -> np.ndarray:
        """Learning rate, weight decay and momentum of each layer; shape (layers, 3)."""
        self._read.find_groups(self._optimizer)
        self._read.read_settings(self._optimizer)
        return self._read.settings.numpy()

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        planned = self._planned and (self._planned[0], self._planned[1].tolist())
        return {
            'done': self.done,
            'regular': self._regular,
            'next': self._next,
            'planned': planned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.done, self._regular = state['done'], state['regular']
        self._next, planned = state['next'], state['planned']
        self._planned = planned and (planned[0], np.array(planned[1]))


def _until_jump(wanted: np.ndarray, lr: np.ndarray) -> int:
    """How many steps there are before the first jump."""
    with np.errstate(divide='ignore', invalid='ignore'):
        moved = np.abs(np.diff(np.log(wanted) - np.log(lr), axis=0))
    jumps = np.flatnonzero((np.nan_to_num(moved, posinf=0.0) > _JUMP).any(axis=1))
    return int(jumps[0]) + 1 if len(jumps) else len(wanted)
