"""What the control adds to an iteration, measured in one process in turn.

python -m studies.control.cost cost SEED FOLDER
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .runs import ANGLE, BASE
from .training import Training

__all__ = ['ROUNDS', 'measure']

# Iterations of a turn, and turns of each kind of run.
TURN, ROUNDS = 20, 24
KINDS = ('plain', 'monitored', 'controlled')


def measure(seed: int, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Time of an iteration in each turn, in ms of the processor, by kind of run."""
    settings = replace(BASE, shape='constant')
    runs = {kind: Training(settings, 3, seed) for kind in KINDS[:2]}
    runs['controlled'] = Training(settings.at_angle(ANGLE), 3, seed)
    # The control is timed without a second monitor for the study's own records.
    for kind in ('plain', 'controlled'):
        runs[kind].monitor.detach()
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(BASE.batch, 3, 32, 32, generator=random)
    labels = torch.randint(3, (BASE.batch,), generator=random)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(rounds + 1):
        for kind, training in runs.items():
            began = time.process_time()
            for step in range(TURN):
                training.step(turn * TURN + step, images, labels)
            if turn:  # the first one warms up
                found[kind].append((time.process_time() - began) / TURN * 1000)
    runs['monitored'].finish()
    return found


def ratios(found: dict[str, list[float]], kind: str) -> np.ndarray:
    """Time of a kind of run over that of the plain one, turn by turn."""
    return np.array(found[kind]) / np.array(found['plain'])


if __name__ == '__main__':
    torch.set_num_threads(1)
    folder = Path(sys.argv[3])
    unfinished = folder / '.cost.json'
    unfinished.write_text(json.dumps(measure(int(sys.argv[2]))), 'utf-8')
    os.replace(unfinished, folder / 'cost.json')
