"""Stages, told apart while a run goes on."""

import json

import numpy as np
import pytest

from smd_mmdet.stages import WARMUP, StageTracker, warmup_end

# Rates that rise at every iteration of the warm-up, with what comes after.
RISING = {
    'held, then a drop': [0.01, 0.02, 0.03, 0.03, 0.03, 0.003, 0.003],
    'a fall at once': [0.01, 0.02, 0.03, 0.02, 0.01, 0.005],
    'one rise': [0.01, 0.02, 0.02, 0.02],
    'nothing but a rise': [0.01, 0.02, 0.03],
    'no rise': [0.03, 0.03, 0.02, 0.02],
}
STAIRS = [0.01, 0.01, 0.01, 0.02, 0.02, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03, 0.003]


def numbers(lr, warmup=0, resume_at=None):
    """The number that each iteration is given while it is the last one."""
    tracker, found = StageTracker(), []
    for t, rate in enumerate(lr):
        if t == resume_at:
            state = json.loads(json.dumps(tracker.state_dict()))
            tracker = StageTracker()
            tracker.load_state_dict(state)
        tracker.observe(((rate, 1e-4, 0.9),), warming=t < warmup)
        found.append(tracker.stage.number)
    return found


@pytest.mark.parametrize('name', RISING)
def test_who_knows_the_schedule_sees_what_is_seen_without(name):
    lr = RISING[name]
    end = warmup_end(np.array(lr))
    told, seen = numbers(lr, end), numbers(lr)
    assert told[:end] == [WARMUP] * end and min(told[end:], default=0) >= 0
    # Who does not know takes the first held rate for one more rise.
    assert told[end + 1 :] == seen[end + 1 :]


def test_stairs_are_warm_up_to_those_who_know():
    assert warmup_end(np.array(STAIRS)) == 5
    assert numbers(STAIRS, 5) == [WARMUP] * 5 + [0] * 6 + [1]
    # Too late for a warm-up.
    assert warmup_end(np.array(STAIRS[:8])) == 0
    assert numbers(STAIRS)[:2] == [0, 0]


@pytest.mark.parametrize('at', range(1, len(STAIRS)))
def test_a_resumed_run_goes_on_in_the_same_stage(at):
    assert numbers(STAIRS, 5, resume_at=at) == numbers(STAIRS, 5)


def test_a_checkpoint_from_before_warm_ups_were_known_is_read():
    tracker = StageTracker()
    tracker.observe(((0.1, 1e-4, 0.9),))
    state = tracker.state_dict()
    del state['warming']
    other = StageTracker()
    other.load_state_dict(state)
    other.observe(((0.1, 1e-4, 0.9),))
    assert (other.stage.number, other.stage.length) == (0, 2)
