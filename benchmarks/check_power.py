"""Detection power and false alarms of `smd check`, on walks whose truth is known.

    PYTHONPATH=. python benchmarks/check_power.py [--seeds 200] [--layers 5]

writes docs/checks_power.md. Every figure in it is counted here; a seed is one run
whose report holds all layers, as a user's would.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from simulation import BROKEN, OBEYING, Scenario, simulate  # noqa: E402

from smd_mmdet import checks  # noqa: E402


@dataclass
class Tally:
    """Counts over runs of one scenario."""

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
    """One run."""
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
        tally.assumptions.update(failing)
        tally.states[stage.state] += 1
        tally.angle[stage.verdict_of('angular_update')] += 1
    return tally


def measure(pool: Pool, scenario: Scenario, seeds: int, layers: int) -> Tally:
    """All runs of a scenario."""
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
    return f'{part / whole:.1%}' if whole else '–'


def commonest(counter: Counter, whole: int) -> str:
    return ', '.join(f'{k} {v / whole:.0%}' for k, v in counter.most_common(3)) or '–'


def page(seeds: int, layers: int, pool: Pool) -> str:
    """The document."""
    lines = [
        '# Detection power and false alarms of `smd check`',
        '',
        'Counted by `benchmarks/check_power.py` on float64 random walks of '
        'scale-invariant weights (`tests/simulation.py`), recorded in windows of 50 '
        f'iterations: {seeds} runs of {layers} layers each. A family-wise level of '
        f'{checks.LEVEL:.0%} per report is what the checks claim.',
        '',
        '## Walks that obey the theory',
        '',
        '| walk | runs with a false alarm | states of the layers | `angular_update` |',
        '|---|---|---|---|',
    ]
    for name, scenario in OBEYING.items():
        tally = measure(pool, scenario, seeds, layers)
        lines.append(
            f'| {name} | {tally.failing_runs} of {tally.runs} '
            f'| {commonest(tally.states, tally.layers)} '
            f'| {commonest(tally.angle, tally.layers)} |'
        )
        print(lines[-1], flush=True)
    head = [
        '| walk | named, nothing else | exit code 1 | failing assumptions | states |',
        '|---|---|---|---|---|',
    ]
    parts = {
        '## Walks that break one thing': BROKEN,
        '## Smaller faults, shorter runs': weaker(),
    }
    for title, scenarios in parts.items():
        # A curve needs no rare events.
        number = seeds if scenarios is BROKEN else max(1, seeds // 4)
        lines += ['', f'{title} ({number} runs each)', '', *head]
        for name, scenario in scenarios.items():
            tally = measure(pool, scenario, number, layers)
            lines.append(
                f'| {name} | {share(tally.named, tally.layers)} of layers '
                f'| {share(tally.failing_runs, tally.runs)} of runs '
                f'| {commonest(tally.assumptions, tally.layers)} '
                f'| {commonest(tally.states, tally.layers)} |'
            )
            print(lines[-1], flush=True)
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
