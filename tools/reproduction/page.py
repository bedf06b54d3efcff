"""docs/reproduction.md, from whatever is finished."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from smd_mmdet import checks
from smd_mmdet.report import write_files
from smd_mmdet.report.figures import draw, save
from smd_mmdet.report.words import CHECKS, plural

from . import theorems
from .experiments import EXPERIMENTS, Experiment
from .results import (
    Paired,
    Parting,
    Results,
    Spread,
    check_counts,
    kinds,
    noise_of,
    over_time,
    paired,
    partings,
    read_results,
)
from .walks import Walks

__all__ = ['write_page']

IMAGES = Path('images', 'reproduction')
DPI = 75
MOST_PARTINGS = 12
SPANS = 5

# Headline scores, in the order they are shown; all are shares of 1.
METRICS = {
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP': 'mask AP',
    'accuracy/top1': 'top-1 accuracy',
}
# Scores that are percentages already.
PERCENT = ('accuracy/top1',)

# A layer in one of these states is not what the theory is about, or not where it says.
APART = (
    checks.OFF,
    checks.LEFT_REGIME,
    checks.NOT_INVARIANT,
    checks.NO_GRADIENT,
    checks.DIVERGED,
)
VERDICTS = (checks.HOLDS, checks.FAILS, checks.UNDECIDED, checks.NOT_APPLICABLE)

INTRODUCTION = """\
# The paper's claims, in miniature

Every number and figure here is made by one command from runs that it trains itself,
on two CPU cores:

```bash
bash tools/reproduce.sh
```

An interrupted call goes on the next time; `--quick` does the first seed of the main
runs only; `--page` writes this page from what is finished. The models are small and
see few pictures, so their scores say nothing about detectors on COCO. What is tested is
the motion of their weights, by the same code that measures large ones. Scale-invariant
weights decay faster than usual, so that equilibrium comes within hundreds of
iterations (the configs tell how fast); Δ* is that much larger."""

READING = """\
Δ_rms/Δ*, ‖w‖/w* and the transient law Δ_rms/Δ*·(‖w‖/w*)² are those of the last third
of each stage (of 200 iterations at least, of half the stage at most), as `smd check`
computes them: median, and lowest to highest, over all layers of all seeds. Scores are
in per cent, mean ± standard deviation over seeds. Paired differences are seed by seed;
plain and rescaled runs of a seed are the same run until the first drop of the rate.
Their intervals are 95 % t intervals, each on its own: among many, one in twenty is
beyond 0 by chance."""

THEOREMS = """\
## The theorems against random walks

{walks} walks in each row, in float64, of a weight of {size:,} numbers whose gradient
is tangential, of random direction, with ‖g̃‖² drawn evenly from 1 ± s; s is 0.5, with
little noise 0.1. λη/(1−α) is 1e-3 before a drop. L, V and l are those of the walks."""

COURSE = """\
E(‖w‖²−w*²)²/w*⁴ and its bound, after so many relaxation times (1−α)/(4λη) of ‖w‖⁴. The
bound is B·(1 − 2λη/(1−α))^t + C·Vη²/l, where B is the distance at the start. Theorem 1
gives C = 2/(1−2λη); the C(α) of Theorem 2 is not stated here, and C is what would just
do at rest."""


def write_page(
    root: Path,
    out: Path,
    experiments: Sequence[Experiment] = EXPERIMENTS,
    walks: int = 400,
) -> None:
    """Write the page and its figures.

    Args:
        root: Folder of the runs.
        out: The page; figures go to images/reproduction beside it.
        experiments: That belong on it.
        walks: Random walks in each row of the theorems' tables; 0 leaves them out.

    Raises:
        RecordsError: If the records of a finished run cannot be read.
        OSError: If a file cannot be written.
    """
    results = read_results(experiments, root)
    groups: dict[str, list[Results]] = {}
    for each in results:
        groups.setdefault(each.experiment.group, []).append(each)
    parts = [INTRODUCTION, _done(results)]
    if any(each.runs for each in results):
        parts += ['## In short', _in_short(results), '## How to read it', READING]
    images: dict[str, bytes] = {}
    for name, members in groups.items():
        if any(each.runs for each in members):
            parts += [f'## {name}', *_group(members, images)]
    if walks:
        found, dropped = theorems.equilibria(walks), theorems.drops(walks)
        parts += theorem_section(found, dropped, walks)
    write_files(out.parent / IMAGES, images)
    write_files(out.parent, {out.name: ('\n\n'.join(parts) + '\n').encode()})


# ------------------ words, tables


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; '' for no rows."""
    lines = [list(row) for row in rows]
    if not lines:
        return ''
    ruled = [list(head), ['---'] * len(head), *lines]
    return '\n'.join(f'| {" | ".join(_cell(c) for c in row)} |' for row in ruled)


def _cell(text: str) -> str:
    return ' '.join(str(text).replace('|', '\\|').split())


def number(value: float | None, digits: int = 3) -> str:
    """Three digits that count; '–' for nothing."""
    if value is None or not np.isfinite(value):
        return '–' if value is None or np.isnan(value) else '∞'
    if value and not 1e-3 <= abs(value) < 1e5:
        return f'{value:.{digits - 1}e}'
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.{digits}g}'


def spread(found: Spread) -> str:
    """Median and range."""
    if not found.number:
        return '–'
    text = number(found.median)
    if found.number > 1:
        text += f' ({number(found.low)} to {number(found.high)})'
    return text


def score(metric: str, values: Sequence[float]) -> str:
    """Mean ± standard deviation, in per cent."""
    shown = np.array(values) * _per_cent(metric)
    if len(shown) == 1:
        return f'{shown[0]:.1f}'
    return f'{shown.mean():.1f} ± {shown.std(ddof=1):.1f}'


def _per_cent(metric: str) -> float:
    return 1.0 if metric in PERCENT else 100.0


def _metrics(results: Results) -> list[str]:
    found = results.scores()
    return [metric for metric in METRICS if metric in found]


def _with(results: Results, all_of_them: Sequence[Results]) -> Results | None:
    """What an experiment is compared with, if runs of both are finished."""
    for other in all_of_them:
        if other.experiment.name == results.experiment.against:
            return other if other.runs and results.runs else None
    return None


def _done(results: Sequence[Results]) -> str:
    """What the page rests on, and what is not done."""
    wanted = sum(each.experiment.seeds for each in results)
    done = sum(len(each.runs) for each in results)
    rows = [
        (
            each.experiment.group,
            each.experiment.title,
            f'`{each.experiment.config}`',
            f'{len(each.runs)} of {each.experiment.seeds}' if each.runs else 'not done',
        )
        for each in results
    ]
    head = f'{done} of {wanted} runs are done.'
    if not done:
        return head
    return f'{head}\n\n' + table(('model', 'run', 'config', 'seeds done'), rows)


# ------------------ in short


def _in_short(results: Sequence[Results]) -> str:
    """One item per model and comparison."""
    items = []
    for each in results:
        other = _with(each, results)
        if other is not None:
            items += _compared(other, each)
    items += [_reached(each) for each in results if each.runs]
    return '\n'.join(f'- {item}' for item in items)


def _reached(results: Results) -> str:
    first = results.stage_numbers[0] if results.stage_numbers else 0
    reports = [report for _, report in results.stages(first)]
    there = sum(report.state == checks.IN_EQUILIBRIUM for report in reports)
    failing = sum(bool(report.failing) for _, report in results.stages())
    law = Spread.of(report.transient_ratio for _, report in results.stages())
    angle = Spread.of(report.angular_update_ratio for report in reports)
    experiment = results.experiment
    layers, seeds = plural(len(reports), 'layer'), plural(len(results.runs), 'seed')
    return (
        f'{experiment.group}, {experiment.title}: in stage {first}, {there} of '
        f'{layers} ({seeds}) in equilibrium, Δ_rms/Δ* {spread(angle)}; over all stages '
        f'the transient law at {spread(law)}, and a conclusion of the theory fails in '
        f'{failing} of {len(results.stages())} layer stages.'
    )


def _compared(first: Results, second: Results) -> list[str]:
    """Sentences on the angular update and the final scores of two experiments."""
    group = second.experiment.group
    titles = first.experiment.title, second.experiment.title
    common = [n for n in second.stage_numbers if n in first.stage_numbers]
    later = common[1:] or common
    items = []
    for stage in later:
        angles = [
            Spread.of(report.angular_update_ratio for _, report in each.stages(stage))
            for each in (first, second)
        ]
        items.append(
            f'{group}, stage {stage}: Δ_rms/Δ* {spread(angles[0])} ({titles[0]}), '
            f'{spread(angles[1])} ({titles[1]}).'
        )
    pairs = paired(first, second)
    for metric in _metrics(second):
        known = [pair for pair in pairs if pair.metric == metric]
        if known:
            last = max(known, key=lambda pair: pair.iteration)
            items.append(
                f'{group}, {METRICS[metric]} at the end, {titles[1]} against '
                f'{titles[0]}: {_difference(last)}.'
            )
    return items


def _difference(pair: Paired) -> str:
    per_cent = _per_cent(pair.metric)
    text = f'{per_cent * pair.mean:+.1f} over {plural(len(pair.differences), "seed")}'
    if np.isfinite(pair.p_value):
        low, high = (per_cent * bound for bound in pair.interval)
        text += f' (95 %: {low:+.1f} to {high:+.1f}, p = {pair.p_value:.2g})'
    return f'{text}, {pair.verdict}'


# ------------------ a model


def _group(members: Sequence[Results], images: dict[str, bytes]) -> list[str]:
    """All there is to show of a model; figures are added to ``images``."""
    done = [each for each in members if each.runs]
    missing = [each.experiment.title for each in members if not each.runs]
    parts = [f'Not done: {", ".join(missing)}.'] if missing else []
    parts += [_figures(done, images)]
    titled = {
        'Motion at the end of each stage': _stage_table(done),
        'Scores': _score_table(done),
        'One against the other': _paired_table(done),
        'Δ_rms/Δ* over the run': _time_table(done),
        'Checks': _check_table(done),
        'Assumptions that fail, and by how much': _assumption_table(done),
        'Noise': _noise_table(done),
        'Where theory and measurement part': parting_table(done),
    }
    for title, text in titled.items():
        if text:
            parts += [f'### {title}', text]
    return parts


def _figures(done: Sequence[Results], images: dict[str, bytes]) -> str:
    """The paper's figures of the first seed, two beside one another."""
    shown = []
    for each in done:
        result = min(each.runs, key=lambda result: result.task.seed)
        figures = draw(result.run, names=each.experiment.figures)
        for name, figure in figures.items():
            file = f'{each.experiment.name}-{name}.png'
            images[file] = save(figure, dpi=DPI)
            caption = f'{each.experiment.title}, {CAPTIONS.get(name, name)}'
            shown.append((caption, f'![{caption}]({(IMAGES / file).as_posix()})'))
    rows = []
    for i in range(0, len(shown), 2):
        pair = [*shown[i : i + 2], ('', '')][:2]
        rows += [[caption for caption, _ in pair], [image for _, image in pair]]
    return table(rows[0], rows[1:]) if rows else ''


CAPTIONS = {
    'angular_update': 'Δ of every layer',
    'weight_norm': '‖w‖ against w*',
}


def _stage_table(done: Sequence[Results]) -> str:
    rows = []
    for each in done:
        for stage in each.stage_numbers:
            reports = [report for _, report in each.stages(stage)]
            there = sum(r.state == checks.IN_EQUILIBRIUM for r in reports)
            rows.append(
                (
                    each.experiment.title,
                    str(stage),
                    f'{reports[0].first_iter:,}–{reports[0].last_iter:,}',
                    number(reports[0].lr),
                    number(each.angle_eq(stage)),
                    spread(Spread.of(r.angular_update_ratio for r in reports)),
                    spread(Spread.of(r.weight_norm_ratio for r in reports)),
                    spread(Spread.of(r.transient_ratio for r in reports)),
                    f'{there} of {len(reports)}',
                )
            )
    head = ('run', 'stage', 'iterations', 'lr', 'Δ*', 'Δ_rms/Δ*', '‖w‖/w*')
    return table((*head, 'transient law', 'layers in equilibrium'), rows)


def _score_table(done: Sequence[Results]) -> str:
    rows = []
    iterations = sorted(
        {i for each in done for metric in _metrics(each) for i in each.scores()[metric]}
    )
    for each in done:
        scores = each.scores()
        for metric in _metrics(each):
            values = scores[metric]
            most = max(len(v) for v in values.values())
            cells = [
                score(metric, values[i]) if i in values else '' for i in iterations
            ]
            rows.append((each.experiment.title, METRICS[metric], str(most), *cells))
    head = ('run', 'score', 'seeds', *(f'at {i:,}' for i in iterations))
    return table(head, rows)


def _paired_table(done: Sequence[Results]) -> str:
    rows = []
    for each in done:
        other = _with(each, done)
        for pair in paired(other, each) if other is not None else ():
            if pair.metric not in METRICS:
                continue
            per_cent = _per_cent(pair.metric)
            low, high = (per_cent * bound for bound in pair.interval)
            known = np.isfinite(pair.p_value)
            rows.append(
                (
                    f'{each.experiment.title} − {other.experiment.title}',
                    METRICS[pair.metric],
                    f'{pair.iteration:,}',
                    ', '.join(f'{per_cent * d:+.1f}' for d in pair.differences),
                    f'{per_cent * pair.mean:+.1f}',
                    f'{low:+.1f} to {high:+.1f}' if known else '–',
                    number(pair.p_value, 2),
                    pair.verdict,
                )
            )
    head = ('runs', 'score', 'iteration', 'by seed', 'mean', '95 %', 'p', 'verdict')
    return table(head, rows)


def _time_table(done: Sequence[Results]) -> str:
    """Δ/Δ* in spans of iterations, of the experiments compared."""
    tables = []
    for each in done:
        other = _with(each, done)
        if other is None:
            continue
        last = min(r.run.last_iter for e in (each, other) for r in e.runs)
        edges = [round(last * i / SPANS) for i in range(SPANS + 1)]
        rows = [
            (e.experiment.title, *(spread(s) for s in over_time(e, edges)))
            for e in (other, each)
        ]
        spans = [f'{a + 1:,}–{b:,}' for a, b in pairwise(edges)]
        tables.append(table(('run', *spans), rows))
    return '\n\n'.join(tables)


def _check_table(done: Sequence[Results]) -> str:
    """Counts of verdicts, of layers, stages and seeds together."""
    kind_of = kinds(
        [layer for e in done for r in e.runs for layer in r.run.report.layers]
    )
    counts = [check_counts(each) for each in done]
    rows = [
        (
            kind_of[name],
            CHECKS[name][0] if name in CHECKS else name,
            *(
                ' / '.join(str(count.get(name, {}).get(v, 0)) for v in VERDICTS)
                for count in counts
            ),
        )
        for name in kind_of
    ]
    head = ('', 'check', *(each.experiment.title for each in done))
    said = 'Layer stages in which it holds / fails / is undecided / does not apply.'
    return f'{said}\n\n{table(head, rows)}' if rows else ''


MEASURED = {
    'small_step': 'λη',
    'bounded_noise': 'V/L²',
    'slow_drift': 'change of L per iteration',
    'lower_bound_strict': 'lowest h̃/L',
    'lower_bound_windowed': 'lowest mean of h̃/L over 200 iterations',
}


def _assumption_table(done: Sequence[Results]) -> str:
    """By stage: the bounds go with the learning rate."""
    rows = []
    for each in done:
        for stage in each.stage_numbers:
            reports = [report for _, report in each.stages(stage)]
            for name in MEASURED:
                found = [c for r in reports for c in r.checks if c.name == name]
                failing = [c for c in found if c.verdict == checks.FAILS]
                if failing:
                    rows.append(
                        (
                            *(each.experiment.title, str(stage), CHECKS[name][0]),
                            f'{len(failing)} of {len(found)}',
                            MEASURED[name],
                            spread(Spread.of(c.value for c in failing)),
                            _bounds(failing),
                            spread(Spread.of(_multiple(c) for c in failing)),
                        )
                    )
    head = ('run', 'stage', 'assumption', 'fails in layers', 'measured is', 'measured')
    return table((*head, 'its bound', 'measured over bound'), rows)


def _bounds(failing: Sequence[checks.Check]) -> str:
    """The bounds of failing checks; infinite where none can be met."""
    values = [check.bound for check in failing if check.bound is not None]
    if values and not np.isfinite(values).any():
        return 'none can be met: λη is too large'
    return spread(Spread.of(values))


def _multiple(check: checks.Check) -> float | None:
    if check.value is None or not check.bound:
        return None
    return check.value / check.bound


def _noise_table(done: Sequence[Results]) -> str:
    rows = []
    for each in done:
        noises = [
            noise_of(result, layer, report.stage)
            for result in each.runs
            for layer, report in result.stages()
        ]
        if noises:
            columns = (Spread.of(column) for column in zip(*noises, strict=True))
            cosine, *rest = (spread(column) for column in columns)
            rows.append((each.experiment.title, *rest, cosine))
    windows = 'windows with h̃ < 0 once', 'windows with mean h̃ < 0'
    head = ('run', 'V/L²', *(f'share of {name}' for name in windows), 'cosine(w, g)')
    return table(head, rows)


def parting_table(done: Sequence[Results]) -> str:
    rows = [row for each in done for row in partings(each, APART)]
    if not rows:
        return (
            'Nowhere: no conclusion fails, and every layer has gradients and stays '
            'scale-invariant.'
        )
    seeds = {each.experiment.title: len(each.runs) for each in done}
    shown = sorted(rows, key=lambda row: -row.distance)[:MOST_PARTINGS]
    head = (
        *('run', 'layer', 'stage', 'seeds', 'Δ_rms/Δ*', '‖w‖/w*', 'transient law'),
        *('cosine', 'V/L²', 'windows with h̃ < 0 once', 'state', 'why'),
    )
    text = table(head, [_parting(row, seeds[row.experiment]) for row in shown])
    if len(shown) < len(rows):
        text += f'\n\nand {plural(len(rows) - len(shown), "layer stage")} nearer to 1.'
    return text


def _parting(row: Parting, seeds: int) -> tuple[str, ...]:
    worst = row.reports[0]
    failing = ', '.join(CHECKS[c.name][0].lower() for c in worst.failing)
    why = f'{failing} fails: {worst.failing[0].reason}' if failing else worst.note
    return (
        row.experiment,
        f'`{row.layer.removesuffix(".weight")}`',
        str(row.stage),
        f'{row.seeds} of {seeds}',
        spread(Spread.of(r.angular_update_ratio for r in row.reports)),
        spread(Spread.of(r.weight_norm_ratio for r in row.reports)),
        spread(Spread.of(r.transient_ratio for r in row.reports)),
        number(row.noise.cosine, 2),
        number(row.noise.variance, 2),
        f'{row.noise.touched:.0%}',
        worst.state,
        why,
    )


# ------------------ random walks


def theorem_section(
    found: Sequence[theorems.Equilibrium], dropped: Sequence[theorems.Drop], walks: int
) -> list[str]:
    """The theorems' part of the page, in paragraphs.

    Args:
        found: Walks to equilibrium.
        dropped: Walks whose rate falls.
        walks: Of each.
    """
    rest = table(
        (
            *('walk', 'L', 'V/L²', 'l/L', 'assumption 4: above', '‖w‖/w*', 'Δ_rms/Δ*'),
            *('rate of ‖w‖⁴ / 4λη/(1−α)', 'rate of E(‖w‖²−w*²)² / 2λη/(1−α)'),
        ),
        [
            (
                *(e.name, number(e.mean), number(e.noise), number(e.least)),
                *(number(e.least_allowed), f'{e.norm:.4f}', f'{e.angle:.4f}'),
                *(f'{e.rate:.3f}', f'{e.spread_rate:.2f}'),
            )
            for e in found
        ],
    )
    course = table(
        ('walk', 'constant', *(f'{m:g}' for m in theorems.MOMENTS)),
        [
            (
                e.name,
                '2/(1−2λη)' if e.exceeded is not None else f'C = {number(e.constant)}',
                *(f'{number(was)}; {number(limit)}' for _, was, limit in e.course),
            )
            for e in found
        ],
    )
    bounds = table(
        (
            *('walk', 'E(‖w‖²−w*²)²/w*⁴ at rest', 'iterations beyond the bound'),
            *('most of the bound, after 1/e', 'share of Δ beyond the tolerance'),
            *('tolerance, and share allowed', '|Δ/Δ*−1| in 99 %'),
        ),
        [
            (
                *(e.name, number(e.spread)),
                *('–' if v is None else number(v) for v in (e.exceeded, e.closest)),
                *(number(e.off), number(e.allowed), f'below {number(e.usual)}'),
            )
            for e in found
        ],
    )
    after = table(
        (
            *('walk', 'weights', 'Δ_rms/Δ* at once', 'after 1/e of ‖w‖⁴'),
            *('iterations to ‖w‖⁴ within 10 %', 'Corollary 3.1: at least'),
            'decay alone takes',
        ),
        [
            (
                *(d.name, 'rescaled' if d.rescaled else 'plain'),
                *(number(d.first), number(d.after_fold), number(d.needed)),
                *(number(d.corollary), number(d.decay_alone)),
            )
            for d in dropped
        ],
    )
    intro = THEOREMS.format(walks=walks, size=Walks.size)
    return [
        intro,
        '### At rest, and the way there (Theorems 1, 2, 3)',
        rest,
        _exact(found),
        '### The bounds (Theorems 1, 2, 3)',
        COURSE,
        course,
        bounds,
        _bounded(found),
        '### The rate divided by ten (Corollary 3.1 and rescaling)',
        after,
        _dropped(dropped),
    ]


def _exact(found: Sequence[theorems.Equilibrium]) -> str:
    off = max(abs(value - 1) for e in found for value in (e.norm, e.angle))
    rate = max(abs(e.rate - 1) for e in found)
    least = min(e.spread_rate for e in found)
    return (
        f'w* and Δ* are met within {off:.2%}, also where gradients are correlated and '
        f'L is not E‖g̃‖² = 1. The mean of ‖w‖⁴ nears w*⁴ at 4λη/(1−α) within '
        f'{rate:.1%}; E(‖w‖²−w*²)² shrinks at least {least:.1f} times as fast as the '
        'theorems guarantee.'
    )


def _bounded(found: Sequence[theorems.Equilibrium]) -> str:
    exceeded = sum(e.exceeded or 0 for e in found)
    first = 'is never exceeded'
    if exceeded:
        first = f'is exceeded in {plural(exceeded, "iteration")}'
    second = 'holds' if all(e.off <= e.allowed for e in found) else 'does not hold'
    return (
        f'The bound of Theorem 1 {first}. That of Theorem 3 on the probability '
        f'{second}; its tolerance is wide, Δ stays much nearer to Δ*.'
    )


def _dropped(dropped: Sequence[theorems.Drop]) -> str:
    plain = [d for d in dropped if not d.rescaled]
    rescaled = [d for d in dropped if d.rescaled]
    shares = [d.needed / d.corollary for d in plain]
    off = max(abs(d.first - 1) for d in rescaled)
    return (
        f'Plain walks begin at {number(min(d.first for d in plain))} of the new Δ*; '
        f'rescaled ones are within {off:.1%} of it at once. Within 10 % of the new '
        f'equilibrium plain walks come after {min(shares):.2f} to {max(shares):.2f} of '
        'the iterations that the corollary calls the fewest to the equilibrium itself.'
    )
