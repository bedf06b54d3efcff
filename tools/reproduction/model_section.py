"""What the page shows of one model: its figures and tables."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from smd_mmdet import checks
from smd_mmdet.report.canvas import save
from smd_mmdet.report.figures import draw
from smd_mmdet.report.words import CHECKS, plural

from .markdown import METRICS, metrics_of, number, per_cent_of, score, spread, table
from .results import (
    Parting,
    Results,
    Spread,
    check_counts,
    compared_with,
    distance,
    kinds,
    noise_of,
    over_time,
    paired,
    partings,
)

IMAGES = Path('images', 'reproduction')
DPI = 75
MOST_PARTINGS = 12
SPANS = 5

# A layer in one of these states is not what the theory is about, or not where it says.
APART = (
    checks.OFF,
    checks.LEFT_REGIME,
    checks.NOT_INVARIANT,
    checks.NO_GRADIENT,
    checks.DIVERGED,
)
VERDICTS = (checks.HOLDS, checks.FAILS, checks.UNDECIDED, checks.NOT_APPLICABLE)


def model_section(members: Sequence[Results], images: dict[str, bytes]) -> list[str]:
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
        'Layers that are not in equilibrium, and why': _away_table(done),
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
        {
            i
            for each in done
            for metric in metrics_of(each)
            for i in each.scores()[metric]
        }
    )
    for each in done:
        scores = each.scores()
        for metric in metrics_of(each):
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
        other = compared_with(each, done)
        for pair in paired(other, each) if other is not None else ():
            if pair.metric not in METRICS:
                continue
            per_cent = per_cent_of(pair.metric)
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
        other = compared_with(each, done)
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


def _away_table(done: Sequence[Results]) -> str:
    """By state, with the layer furthest from Δ* and what the checks say of it."""
    rows = []
    for each in done:
        for stage in each.stage_numbers:
            states: dict[str, list[tuple[str, checks.StageReport]]] = {}
            for name, report in each.stages(stage):
                if report.state != checks.IN_EQUILIBRIUM:
                    states.setdefault(report.state, []).append((name, report))
            for state, found in states.items():
                name, furthest = max(found, key=lambda pair: distance(pair[1]))
                reports = [report for _, report in found]
                rows.append(
                    (
                        *(each.experiment.title, str(stage), state, str(len(found))),
                        spread(Spread.of(r.angular_update_ratio for r in reports)),
                        spread(Spread.of(r.transient_ratio for r in reports)),
                        f'`{name.removesuffix(".weight")}`: {_why(furthest)}',
                    )
                )
    head = ('run', 'stage', 'state', 'layers', 'Δ_rms/Δ*', 'transient law')
    return table((*head, 'the furthest of them'), rows)


def _why(report: checks.StageReport) -> str:
    """What the checks say of a layer that is not in equilibrium."""
    reasons = (c.reason for c in report.checks if c.name == 'angular_update')
    return report.note or next(reasons, '')


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
        '–' if np.isnan(row.noise.touched) else f'{row.noise.touched:.0%}',
        worst.state,
        why,
    )
