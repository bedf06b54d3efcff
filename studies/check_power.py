"""Detection power and false alarms of `smd check`, on walks whose truth is known.

    python -m studies.check_power [--seeds 200] [--layers 5]

writes docs/checks_power.md. Every figure in it is counted here. Each seed makes one
run, whose report covers all of its layers, as that of a user's run would.
"""

import argparse
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from simulation import BROKEN, OBEYING, Scenario, simulate

from smd_mmdet import checks

from . import ROOT
from .markdown import row, table

INTRODUCTION = """\
# Detection power and false alarms of `smd check`

Counted by `python -m studies.check_power` on float64 random walks of scale-invariant \
weights (`tests/simulation.py`), recorded in windows of 50 iterations: {seeds} runs of \
{layers} layers each. A family-wise level of {level:.0%} per report is what the checks \
claim."""


@dataclass
class Tally:
    """Counts over runs of one scenario.

    Args:
        runs: How many runs were made.
        failing_runs: Runs in which a conclusion fails, so that the exit code is 1.
        layers: Layers in all runs.
        named: Layers whose fault is named, and nothing else.
        assumptions: How often each assumption fails.
        states: How often a layer ends in each state.
        angle: How often Δ* comes to each verdict.
    """

    runs: int = 0
    failing_runs: int = 0
    layers: int = 0
    named: int = 0
    assumptions: Counter = field(default_factory=Counter)
    states: Counter = field(default_factory=Counter)
    angle: Counter = field(default_factory=Counter)

    def add(self, other: 'Tally') -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def count(task: tuple[Scenario, int, int]) -> Tally:
    """Simulate and check one run.

    Args:
        task: Scenario, number of layers, and seed.
    """
    scenario, layers, seed = task
    report = checks.check(simulate(scenario, layers, seed))
    tally = Tally(runs=1, failing_runs=report.exit_code)
    for layer in report.layers:
        stage = layer.stages[-1]
        failing = {
            c.name
            for c in stage.checks
            if c.kind == 'assumption' and c.verdict == checks.FAILS
        }
        right = stage.diagnosis == scenario.diagnosis
        if scenario.assumptions is not None:
            right &= failing == scenario.assumptions
        if scenario.state:
            right &= stage.state == scenario.state
        tally.layers += 1
        tally.named += right
        tally.assumptions.update(sorted(failing))
        tally.states[stage.state] += 1
        tally.angle[stage.verdict_of('angular_update')] += 1
    return tally


def measure(pool: Pool, scenario: Scenario, seeds: int, layers: int) -> Tally:
    """Simulate and check a run of a scenario for each seed."""
    total = Tally()
    tasks = [(scenario, layers, seed) for seed in range(seeds)]
    for tally in pool.imap_unordered(count, tasks, chunksize=4):
        total.add(tally)
    return total


def weaker() -> dict[str, Scenario]:
    """The same faults, smaller or seen for a shorter time."""
    decay, momentum = BROKEN['wrong weight decay'], BROKEN['wrong momentum']
    drift = BROKEN['drifting L']
    cases = {}
    for factor in (0.8, 0.9, 1.1, 1.25, 1.5, 2.0):
        claims = dict(weight_decay=2e-3 * factor)
        cases[f'weight decay claimed × {factor:g}'] = replace(decay, claims=claims)
    for claimed in (0.78, 0.75, 0.7):
        # A small deviation shows in the rate first, which then names the momentum.
        diagnosis = 'linear_convergence' if claimed > 0.75 else momentum.diagnosis
        claims = dict(momentum=claimed)
        case = replace(momentum, claims=claims, diagnosis=diagnosis)
        cases[f'momentum claimed {claimed:g} instead of 0.8'] = case
    for steps in (300, 600, 1200):
        settings = decay.settings | dict(lr=np.full(steps, 0.05))
        case = replace(decay, settings=settings, claims=dict(weight_decay=4e-3))
        cases[f'weight decay claimed × 2, {steps} iterations'] = case
    for growth in (1.2, 2.0, 4.0):
        course = np.exp(np.linspace(0, np.log(growth), 3000))
        settings = drift.settings | dict(unit_grad_sq=course)
        cases[f'L grows × {growth:g} over 3,000 iterations'] = replace(
            drift, settings=settings
        )
    return cases


def share(part: int, whole: int) -> str:
    """A share in per cent."""
    return f'{part / whole:.1%}' if whole else '–'


def commonest(counter: Counter, whole: int) -> str:
    """What was counted most often, up to three entries, with their shares."""
    return ', '.join(f'{k} {v / whole:.0%}' for k, v in counter.most_common(3)) or '–'


def obeying_table(pool: Pool, seeds: int, layers: int) -> str:
    """What is said of walks that obey the theory, each row printed as it is counted."""
    head = ('walk', 'runs with a false alarm', 'states of the layers')
    rows = []
    for name, scenario in OBEYING.items():
        tally = measure(pool, scenario, seeds, layers)
        cells = (
            name,
            f'{tally.failing_runs} of {tally.runs}',
            commonest(tally.states, tally.layers),
            commonest(tally.angle, tally.layers),
        )
        print(row(cells), flush=True)
        rows.append(cells)
    return table((*head, '`angular_update`'), rows)


def breaking_table(
    pool: Pool, scenarios: dict[str, Scenario], seeds: int, layers: int
) -> str:
    """What is said of walks that break one thing; arguments as above."""
    head = ('walk', 'named, nothing else', 'exit code 1', 'failing assumptions')
    rows = []
    for name, scenario in scenarios.items():
        tally = measure(pool, scenario, seeds, layers)
        cells = (
            name,
            f'{share(tally.named, tally.layers)} of layers',
            f'{share(tally.failing_runs, tally.runs)} of runs',
            commonest(tally.assumptions, tally.layers),
            commonest(tally.states, tally.layers),
        )
        print(row(cells), flush=True)
        rows.append(cells)
    return table((*head, 'states'), rows)


def page(seeds: int, layers: int, pool: Pool) -> str:
    """The document.

    Args:
        seeds: Runs of each walk; smaller faults get a quarter, as their share in the
            hundredths does not matter.
        layers: Layers of each run.
        pool: Processes that make the runs.
    """
    fewer = max(1, seeds // 4)
    parts = [
        INTRODUCTION.format(seeds=seeds, layers=layers, level=checks.LEVEL),
        '## Walks that obey the theory',
        obeying_table(pool, seeds, layers),
        f'## Walks that break one thing ({seeds} runs each)',
        breaking_table(pool, BROKEN, seeds, layers),
        f'## Smaller faults, shorter runs ({fewer} runs each)',
        breaking_table(pool, weaker(), fewer, layers),
    ]
    return '\n\n'.join(parts) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='python -m studies.check_power', description=__doc__
    )
    parser.add_argument('--seeds', type=int, default=200)
    parser.add_argument('--layers', type=int, default=5)
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'checks_power.md')
    args = parser.parse_args()
    with Pool(args.processes) as pool:
        text = page(args.seeds, args.layers, pool)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(text)


if __name__ == '__main__':
    main()
