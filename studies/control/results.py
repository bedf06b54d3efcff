"""What finished runs came to, by question, data set, run and seed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .experiments import BLOCKS, COST
from .runs import BASE, QUESTIONS, STEPS, Run
from .statistics import Interval, interval_of, smoothed
from .training import WINDOW, read_result

__all__ = ['SMOOTH', 'Block', 'ratios_to_wanted', 'read_blocks', 'read_cost']

# Iterations whose mean loss is one point of a curve.
SMOOTH = 25


@dataclass(frozen=True)
class Block:
    """All finished runs of a question on a data set.

    Args:
        question: Key of :data:`QUESTIONS`.
        data: Name of the data set.
        runs: What became of each run, by its name and the seed.
    """

    question: str
    data: str
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]]

    @property
    def done(self) -> int:
        return sum(len(seeds) for seeds in self.runs.values())

    def curves(self, name: str) -> dict[int, np.ndarray]:
        """Logarithm of the loss in training, smoothed, by seed."""
        return {
            seed: smoothed(found['losses'], SMOOTH)
            for seed, found in self.runs.get(name, {}).items()
        }

    def values(self, name: str, quantity: str) -> dict[int, float]:
        """'loss' or 'accuracy' at the end, on all images that validate, by seed."""
        return {s: found[quantity] for s, found in self.runs.get(name, {}).items()}

    def mean(self, name: str, quantity: str) -> Interval:
        """The same over seeds."""
        return interval_of(list(self.values(name, quantity).values()))

    def difference(self, one: str, other: str, quantity: str) -> Interval:
        """One run minus another, seed by seed."""
        first, second = self.values(one, quantity), self.values(other, quantity)
        common = sorted(first.keys() & second.keys())
        return interval_of([first[s] - second[s] for s in common])

    def over_runs(
        self, names: Sequence[str], quantity: str, what: Callable[[np.ndarray], float]
    ) -> dict[int, float]:
        """A function of a quantity of several runs, of each seed that has them all."""
        found = [self.values(name, quantity) for name in names]
        common = set.intersection(*(set(values) for values in found))
        return {s: what(np.array([v[s] for v in found])) for s in sorted(common)}


def read_blocks(root: Path) -> list[Block]:
    """Read the results that are there.

    Args:
        root: Folder of the runs.

    Raises:
        OSError: If a result cannot be read.
        ValueError: If one is damaged.
    """
    found = []
    for block in BLOCKS:
        question, data = block.name.split('_')
        runs: dict[str, dict[int, Any]] = {}
        for seed in range(block.seeds):
            folder = root / f'{block.name}-seed{seed}'
            for run in QUESTIONS[question]:
                if (result := read_result(folder, run)) is not None:
                    runs.setdefault(run.name, {})[seed] = result
        found.append(Block(question, data, runs))
    return found


def read_cost(root: Path) -> dict[str, list[float]] | None:
    """The timings, or None."""
    file = root / f'{COST.name}-seed0' / 'cost.json'
    return json.loads(file.read_text('utf-8')) if file.is_file() else None


def ratios_to_wanted(blocks: Sequence[Block], every: int) -> np.ndarray:
    """Measured Δ_rms over the wanted one, in runs that were told a Δ.

    Args:
        blocks: Finished runs.
        every: Steps from one control to the next of the runs that count.

    Returns:
        Of each layer in each window that ends after the first 50 iterations, in which
        control begins; shape (pairs,).
    """
    found = [np.empty(0)]
    for block in blocks:
        for seeds in block.runs.values():
            for seed, result in seeds.items():
                wanted = _wanted(block, result, seed)
                if wanted is not None and result['run']['every'] == every:
                    later = np.array(result['ends']) > WINDOW
                    ratio = np.array(result['angles']) / wanted
                    found.append(ratio[later].ravel())
    return np.concatenate(found)


def _wanted(block: Block, result: Mapping[str, Any], seed: int) -> np.ndarray | None:
    """Wanted Δ_rms; shape (windows, 1) or (windows, layers). None without a control."""
    run = Run(**result['run'])
    if run.control == 'replay':
        reference = block.runs.get(BASE.name, {}).get(seed)
        return None if reference is None else np.array(reference['angles'])
    if run.control != 'angle':
        return None
    squares = np.square([run.angle * run.rate(t) for t in range(STEPS)])
    ends = np.array(result['ends'])
    begins = np.concatenate([[0], ends[:-1]])
    sums = np.add.reduceat(squares, begins)
    return np.sqrt(sums / (ends - begins))[:, None]
