"""Detection power and false alarms of `smd check`, on walks whose truth is known.

    python -m studies.check_power [--seeds 200] [--layers 3]

writes docs/checks_power.md. Every figure in it is counted here. Each seed makes one
run, whose report covers all of its layers, as that of a user's run would.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from simulation import BROKEN, OBEYING, Scenario, simulate_many

from smd_mmdet import checks

from . import ROOT
from .markdown import row, table
from .origin import origin

INTRODUCTION = """\
# Detection power and false alarms of `smd check`

{origin}

Counted on float64 random walks of scale-invariant weights \
(`tests/simulation.py`), recorded in windows of 50 iterations: {seeds} runs of each \
walk that obeys the theory, of {layers} layers each. Adaptive optimizers have \
β₁ = 0.9 and β₂ = 0.99. A family-wise level of {level:.0%} per report is what the \
checks claim."""


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
    """Simulate and check the runs of a scenario.

    Args:
        task: Scenario, number of layers, and number of runs.
    """
    scenario, layers, runs = task
    total = Tally()
    for records in simulate_many(scenario, layers, runs):
        total.add(_judged(scenario, checks.check(records)))
    return total


def _judged(scenario: Scenario, report: checks.Report) -> Tally:
    """What the report on one run says."""
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
    for growth in (1.2, 4.0, 8.0):
        course = np.exp(np.linspace(0, np.log(growth), 3000))
        settings = drift.settings | dict(unit_grad_sq=course)
        # A small drift costs little: the V that it needs leaves a low floor.
        failing = drift.assumptions if growth > 2 else frozenset()
        cases[f'L grows × {growth:g} over 3,000 iterations'] = replace(
            drift, settings=settings, assumptions=failing
        )
    adamw = BROKEN['AdamW, weight decay 10 % too high']
    for steps, factor in ((1200, 1.25), (3000, 1.1), (3000, 1.25)):
        settings = adamw.settings | dict(lr=np.full(steps, 1e-3))
        claims = dict(weight_decay=0.2 * factor)
        name = f'AdamW, weight decay claimed × {factor:g}, {steps} iterations'
        cases[name] = replace(adamw, settings=settings, claims=claims)
    return cases


def share(part: int, whole: int) -> str:
    """A share in per cent."""
    return f'{part / whole:.1%}' if whole else '–'


def commonest(counter: Counter, whole: int) -> str:
    """What was counted most often, up to three entries, with their shares."""
    return ', '.join(f'{k} {v / whole:.0%}' for k, v in counter.most_common(3)) or '–'


# Columns of a table: their heads, and what they show of a tally.
_Columns = dict[str, Callable[[Tally], str]]

_OBEYING: _Columns = {
    'runs with a false alarm': lambda tally: f'{tally.failing_runs} of {tally.runs}',
    'states of the layers': lambda tally: commonest(tally.states, tally.layers),
    '`angular_update`': lambda tally: commonest(tally.angle, tally.layers),
}
_BREAKING: _Columns = {
    'named, nothing else': lambda tally: (
        f'{share(tally.named, tally.layers)} of layers'
    ),
    'runs of exit code 1': lambda tally: share(tally.failing_runs, tally.runs),
    'failing assumptions': lambda tally: commonest(tally.assumptions, tally.layers),
    'states': lambda tally: commonest(tally.states, tally.layers),
}


def walks_table(
    pool: Pool,
    scenarios: dict[str, Scenario],
    columns: _Columns,
    seeds: int,
    layers: int,
) -> str:
    """What is said of some walks, each row printed as it is counted.

    Args:
        pool: Processes that make the runs.
        scenarios: The walks, by name.
        columns: What to show of each.
        seeds: Runs of each walk.
        layers: Layers of each run.
    """
    tasks = [(scenario, layers, seeds) for scenario in scenarios.values()]
    rows = []
    for name, tally in zip(scenarios, pool.imap(count, tasks), strict=True):
        rows.append((name, *(show(tally) for show in columns.values())))
        print(row(rows[-1]), flush=True)
    return table(('walk', *columns), rows)


def page(seeds: int, layers: int, pool: Pool) -> str:
    """The document.

    Args:
        seeds: Runs of each walk that obeys the theory. Faults get half of that, and
            smaller ones a quarter, as their share in the hundredths does not matter.
        layers: Layers of each run.
        pool: Processes that make the runs.
    """
    half, fewer = max(1, seeds // 2), max(1, seeds // 4)
    parts = [
        INTRODUCTION.format(
            origin=origin('python -m studies.check_power'),
            seeds=seeds,
            layers=layers,
            level=checks.LEVEL,
        ),
        '## Walks that obey the theory',
        walks_table(pool, OBEYING, _OBEYING, seeds, layers),
        f'## Walks that break one thing ({half} runs each)',
        walks_table(pool, BROKEN, _BREAKING, half, layers),
        f'## Smaller faults, shorter runs ({fewer} runs each)',
        walks_table(pool, weaker(), _BREAKING, fewer, layers),
    ]
    return '\n\n'.join(parts) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='python -m studies.check_power', description=__doc__
    )
    parser.add_argument('--seeds', type=int, default=200)
    parser.add_argument('--layers', type=int, default=3)
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'checks_power.md')
    args = parser.parse_args()
    with Pool(args.processes) as pool:
        text = page(args.seeds, args.layers, pool)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(text)


if __name__ == '__main__':
    main()
