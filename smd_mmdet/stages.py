"""The stages of a run: numbered while it goes on, and named for the reader.

A stage is a maximal run of iterations whose learning rate, weight decay and momentum
hold still, or in which they change at every iteration (a cosine, say).
"""

from dataclasses import dataclass
from enum import Enum

__all__ = ['WARMUP', 'Change', 'Stage', 'StageTracker', 'stage_name']

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
    run is the warm-up as long as its learning rate only rises.

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

    def observe(self, settings: tuple[tuple[float, ...], ...]) -> Change:
        """Take in one iteration.

        Args:
            settings: Tuple (lr, weight_decay, momentum) of every parameter group.

        Returns:
            What changed. From then on ``self.stage`` is the stage of this iteration.
        """
        previous, self._settings = self._settings, settings
        stage = self.stage
        if stage is None:
            self.stage = Stage(self._first)
            return Change.NEW
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
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`."""
        self.stage = Stage(**state['stage']) if state['stage'] else None
        settings = state['settings']
        self._settings = settings and tuple(tuple(group) for group in settings)


def _rate(settings: tuple[tuple[float, ...], ...]) -> float:
    """The highest learning rate of all groups."""
    return max(group[0] for group in settings)
