"""Stages of a run, told apart while it goes on."""

from dataclasses import dataclass
from enum import Enum

WARMUP = -1


def stage_name(number: int, short: bool = False) -> str:
    """A stage as users read it; the records and JSON keep its number.

    Args:
        number: Of the stage.
        short: For a column of stages.

    Returns:
        'warm-up', or 'stage 1', which is '1' for short.
    """
    if number == WARMUP:
        return 'warm-up'
    return str(number) if short else f'stage {number}'


@dataclass
class Stage:
    """A maximal run of iterations under one regime of the learning rate.

    Args:
        number: 0-based; −1 for warm-up.
        steady: Whether learning rate, weight decay and momentum hold still. If
            not, they change at every iteration (warm-up, cosine, linear).
        length: Iterations seen so far.
    """

    number: int
    steady: bool = True
    length: int = 1


class Change(Enum):
    """What an iteration did to the stage."""

    NONE = 'the stage goes on'
    NEW = 'a stage begins with this iteration'
    SETTLED = 'a steady stage began with the iteration before this one'


class StageTracker:
    """Numbers the stages from the settings of each iteration.

    A single change starts a stage; a second change in a row shows that the
    settings are moving, and the two become one moving stage. A moving stage whose
    rate only rises, at the start of the run, is warm-up.


    Args:
        first: Number of the stage that is under way at the first iteration seen.
    """

    def __init__(self, first: int = 0) -> None:
        self.stage: Stage | None = None
        self._first = first
        self._settings: tuple | None = None

    def observe(self, settings: tuple[tuple[float, ...], ...]) -> Change:
        """Take in one iteration.

        Args:
            settings: (lr, weight_decay, momentum) of every parameter group.

        Returns:
            What changed; ``self.stage`` is the stage of this iteration.
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
    return max(group[0] for group in settings)
