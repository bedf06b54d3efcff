"""The stages of a run: numbered while it goes on, and named for the reader.

A stage is a maximal run of iterations whose learning rate, weight decay and momentum
hold still, or in which they change at every iteration (a cosine, say).
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

__all__ = ['WARMUP', 'Change', 'Stage', 'StageTracker', 'stage_name', 'warmup_end']

# The number of the warm-up; the stages after it count from 0.
WARMUP = -1


def stage_name(number: int, short: bool = False) -> str:
    """A stage as users read it; the records and JSON keep its number.

    Args:
        number: Number of the stage.
        short: Whether the name is for a column that holds nothing but stages.

    Returns:
        'warm-up' or 'stage 1'; short, the latter is '1'.

    Example:
        >>> stage_name(-1), stage_name(1), stage_name(1, short=True)
        ('warm-up', 'stage 1', '1')
    """
    if number == WARMUP:
        return 'warm-up'
    return str(number) if short else f'stage {number}'


def warmup_end(lr: np.ndarray) -> int:
    """How many iterations of a schedule are its warm-up.

    From its beginning the rate rises and never falls, at every iteration or in stairs
    (a constant low rate, say, or a rise by epoch). Stairs that take more than half of
    the schedule are no warm-up.

    Args:
        lr: Learning rate of every iteration.

    Returns:
        The iteration, counted from 0, after the warm-up; 0 if there is none.

    Example:
        >>> warmup_end(np.array([0.01, 0.02, 0.03, 0.03, 0.03, 0.003, 0.003]))
        2
        >>> warmup_end(np.array([0.01, 0.01, 0.01, 0.1, 0.1, 0.1, 0.1]))
        3
        >>> warmup_end(np.array([0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.1]))
        0
    """
    change = np.diff(lr)
    falls = np.flatnonzero(change < 0)
    rises = np.flatnonzero(change[: falls[0]] > 0 if len(falls) else change > 0)
    if not len(rises):
        return 0
    last = int(rises[-1]) + 1
    # The rate it rises to is the first stage's, unless it falls at once.
    held = last + 1 < len(lr) and lr[last + 1] == lr[last]
    end = last if held else last + 1
    in_stairs = len(rises) < last
    return 0 if in_stairs and end > len(lr) / 2 else end


@dataclass
class Stage:
    """A maximal run of iterations in which the settings hold still, or always move.

    Args:
        number: 0-based number of the stage; −1 for the warm-up.
        steady: Whether learning rate, weight decay and momentum hold still. If
            not, they change at every iteration (warm-up, cosine, linear).
        length: Number of iterations seen so far.

    Example:
        >>> Stage(number=0, length=100)
        Stage(number=0, steady=True, length=100)
    """

    number: int
    steady: bool = True
    length: int = 1


class Change(Enum):
    """What an iteration did to the stage.

    Example:
        >>> Change.NEW.value
        'a stage begins with this iteration'
    """

    NONE = 'the stage goes on'
    NEW = 'a stage begins with this iteration'
    SETTLED = 'a steady stage began with the iteration before this one'


class StageTracker:
    """Numbers the stages from the settings of each iteration.

    A single change starts a stage. A second change in a row shows that the settings
    are moving, and the two become one moving stage. A moving stage at the start of the
    run is the warm-up as long as its learning rate only rises. Who knows the schedule
    ahead says which iterations are the warm-up, for it may rise in stairs.

    Args:
        first: Number of the stage that is under way at the first iteration seen.

    Attributes:
        stage: The stage of the last iteration seen; None before the first.

    Example:
        >>> tracker = StageTracker()
        >>> for lr in (0.1, 0.1, 0.01, 0.01):
        ...     change = tracker.observe(((lr, 1e-4, 0.9),))
        ...     print(change.name, tracker.stage.number)
        NEW 0
        NONE 0
        NEW 1
        NONE 1
    """

    def __init__(self, first: int = 0) -> None:
        self.stage: Stage | None = None
        self._first = first
        self._settings: tuple | None = None
        self._warming = False

    def observe(
        self, settings: tuple[tuple[float, ...], ...], warming: bool = False
    ) -> Change:
        """Take in one iteration.

        Args:
            settings: Tuple (lr, weight_decay, momentum) of every parameter group.
            warming: Whether the iteration is known to belong to the warm-up.

        Returns:
            What changed. From then on ``self.stage`` is the stage of this iteration.
        """
        previous, self._settings = self._settings, settings
        stage, warming_before = self.stage, self._warming
        self._warming = warming
        if warming != warming_before or stage is None:
            number = 0 if warming_before else self._first
            self.stage = Stage(WARMUP, False) if warming else Stage(number)
            return Change.NEW
        if warming:
            stage.length += 1
            return Change.NONE
        if settings == previous:
            if stage.steady:
                stage.length += 1
                return Change.NONE
            # The iteration before this one was counted as the last of a moving stage.
            stage.length -= 1
            self.stage = Stage(stage.number + 1, length=2)
            return Change.SETTLED
        rising = previous is not None and _rate(settings) > _rate(previous)
        if stage.steady and stage.length > 1:
            self.stage = Stage(stage.number + 1)
            return Change.NEW
        if stage.steady:
            stage.steady = False
            if stage.number == 0 and rising:
                stage.number = WARMUP
        elif stage.number == WARMUP and not rising:
            self.stage = Stage(0, steady=False)
            return Change.NEW
        stage.length += 1
        return Change.NONE

    def state_dict(self) -> dict:
        """Plain values, for a checkpoint."""
        return {
            'stage': vars(self.stage).copy() if self.stage else None,
            'settings': self._settings,
            'warming': self._warming,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`."""
        self.stage = Stage(**state['stage']) if state['stage'] else None
        self._warming = state.get('warming', False)
        settings = state['settings']
        self._settings = settings and tuple(tuple(group) for group in settings)


def _rate(settings: tuple[tuple[float, ...], ...]) -> float:
    """The highest learning rate of all groups."""
    return max(group[0] for group in settings)
