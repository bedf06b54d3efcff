"""What the runs say of the paper's three claims: a few lines, and a row per model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from smd_mmdet import checks
from smd_mmdet.report.words import plural

from ..markdown import table
from .cells import METRICS, metrics_of, number, per_cent_of
from .comparison import Paired, compared_with, paired
from .results import Results, grouped
from .spread import Spread

__all__ = ['After', 'Course', 'ModelSummary', 'summaries', 'summary']


@dataclass(frozen=True)
class After:
    """Δ_rms/Δ* of all layers and seeds in a stage after a drop of the rate."""

    stage: int
    plain: Spread
    rescaled: Spread

    @property
    def nearer(self) -> bool:
        """Whether rescaling leaves the median nearer to 1, as a ratio."""
        return abs(np.log(self.rescaled.median)) < abs(np.log(self.plain.median))


@dataclass(frozen=True)
class Course:
    """A score of the plain runs within their second stage, in per cent.

    Args:
        metric: Name of the score, as it is logged.
        first: Mean over seeds at the first validation in the stage.
        last: Mean at the last one.
        number: How many validations the stage has.
    """

    metric: str
    first: float
    last: float
    number: int


@dataclass(frozen=True)
class ModelSummary:
    """What the page says of a model in a row.

    Args:
        model: Name of the model.
        seeds: Seeds of the plain run.
        there: How many layers of all seeds are in equilibrium at the end of the first
            stage of the plain run.
        layers: How many layers that is out of.
        first: Δ_rms/Δ* there.
        after: Δ_rms/Δ* in the stages after, plain and rescaled.
        ends: Differences of the final scores, rescaled minus plain.
        courses: The plain run's scores within the second stage.
        failing: In how many layers' stages a conclusion of the theory fails, in all
            runs of the model.
        stages: How many layers' stages there are.
    """

    model: str
    seeds: int
    there: int
    layers: int
    first: Spread
    after: tuple[After, ...]
    ends: tuple[Paired, ...]
    courses: tuple[Course, ...]
    failing: int
    stages: int


def summaries(results: Sequence[Results]) -> list[ModelSummary]:
    """A row for each model with runs, in the order of the experiments.

    Args:
        results: Results of all experiments. The first experiment of a model that has
            finished runs is its plain one; what is compared with it, and is not short
            of a stage, is the rescaled one.
    """
    done = [each for each in results if each.runs]
    return [_summary(name, members) for name, members in grouped(done).items()]


def _summary(model: str, members: Sequence[Results]) -> ModelSummary:
    plain = members[0]
    numbers = plain.stage_numbers
    rescaled = next((e for e in members if compared_with(e, members) is plain), None)
    first = [report for _, report in plain.stages(numbers[0])] if numbers else []
    return ModelSummary(
        model,
        len(plain.runs),
        sum(report.state == checks.IN_EQUILIBRIUM for report in first),
        len(first),
        Spread.of(report.angular_update_ratio for report in first),
        tuple(_after(plain, rescaled, numbers[1:])) if rescaled else (),
        tuple(_ends(plain, rescaled)) if rescaled else (),
        tuple(_courses(plain, numbers[1])) if len(numbers) > 1 else (),
        sum(bool(report.failing) for each in members for _, report in each.stages()),
        sum(len(each.stages()) for each in members),
    )


def _after(plain: Results, rescaled: Results, numbers: Iterable[int]) -> list[After]:
    return [
        After(
            stage,
            *(
                Spread.of(r.angular_update_ratio for _, r in each.stages(stage))
                for each in (plain, rescaled)
            ),
        )
        for stage in numbers
    ]


def _ends(plain: Results, rescaled: Results) -> list[Paired]:
    """Differences at the last validation, of each score that the page shows."""
    last: dict[str, Paired] = {}
    for pair in paired(plain, rescaled):
        last[pair.metric] = pair  # by iteration
    return [last[metric] for metric in metrics_of(rescaled) if metric in last]


def _courses(plain: Results, stage: int) -> list[Course]:
    reports = [report for _, report in plain.stages(stage)]
    first, last = reports[0].first_iter, max(report.last_iter for report in reports)
    found = []
    for metric in metrics_of(plain):
        values = plain.scores()[metric]
        inside = sorted(i for i in values if first <= i <= last)
        if inside:
            means = (
                float(np.mean(values[i])) * per_cent_of(metric)
                for i in (inside[0], inside[-1])
            )
            found.append(Course(metric, *means, len(inside)))
    return found


def summary(models: Sequence[ModelSummary], fall: str = '') -> list[str]:
    """The three claims with their figures, and the table of models, in paragraphs.

    Args:
        models: Rows of the table.
        fall: What is said of the third claim, where an experiment of its own tests it;
            '' takes what the second stages of the models show.
    """
    claims = [_equilibrium(models), _rescaling(models), fall or _fall(models)]
    lines = '\n'.join(f'{i}. {claim}' for i, claim in enumerate(claims, 1))
    return [lines, _table(models)]


def _equilibrium(models: Sequence[ModelSummary]) -> str:
    """The first claim: each layer comes to Δ*."""
    there = sum(model.there for model in models)
    layers = sum(model.layers for model in models)
    failing = sum(model.failing for model in models)
    stages = sum(model.stages for model in models)
    missed = [model for model in models if 2 * model.there < model.layers]
    verdict = 'held' if not failing else 'held in part'
    if missed:
        verdict = f'held in {len(models) - len(missed)} of {len(models)} models'
    if len(missed) == len(models):
        verdict = 'did not show'
    text = (
        f'**At one learning rate Δ comes to Δ\\*: {verdict}.** At the end of the first '
        f'stage {there:,} of {layers:,} layers are in equilibrium; Δ_rms/Δ* is '
        f'{_range(model.first.median for model in models)} (medians of the models). A '
        f'conclusion of the theory fails in {failing:,} of {stages:,} layer stages of '
        'all runs.'
    )
    if missed and len(missed) < len(models):
        names = '; '.join(f'{m.model} ({m.there} of {m.layers})' for m in missed)
        text += f' Fewer than half of the layers are there in {names}.'
    return text


def _rescaling(models: Sequence[ModelSummary]) -> str:
    """The second claim: a drop of the rate leaves Δ too small, rescaling mends it."""
    after = [(model, a) for model in models for a in model.after]
    missed = [f'{model.model}, stage {a.stage}' for model, a in after if not a.nearer]
    if not after:
        return '**A rescaled network is in equilibrium at once: not run.**'
    verdict = 'held' if not missed else f'held in {len(after) - len(missed)} of '
    verdict += f'{len(after)} stages' if missed else ''
    if len(missed) == len(after):
        verdict = 'did not show'
    plain = _range(a.plain.median for _, a in after)
    rescaled = _range(a.rescaled.median for _, a in after)
    text = (
        '**After a drop Δ stays away from Δ\\*, and rescaling puts it there: '
        f'{verdict}.** At the ends of the later stages Δ_rms/Δ* is {plain} in plain '
        f'runs, {rescaled} in rescaled ones'
    )
    if missed:
        text += f'. Plain is nearer to 1 in {"; ".join(missed)}'
    return f'{text}. {_final(models)}'


def _final(models: Sequence[ModelSummary]) -> str:
    """What rescaling does to the scores at the end."""
    ends = [pair for model in models for pair in model.ends]
    if not ends:
        return 'No scores are compared.'
    clear = [pair for pair in ends if pair.verdict == 'significant']
    better = [pair for pair in clear if pair.mean > 0]
    values = [per_cent_of(pair.metric) * pair.mean for pair in ends]
    low, high = min(values), max(values)
    return (
        f'Rescaled minus plain, the final score differs by {low:+.1f} to {high:+.1f} '
        f'points: significantly better in {len(better)} of {plural(len(ends), "score")}'
        f', significantly worse in {len(clear) - len(better)}.'
    )


def _fall(models: Sequence[ModelSummary]) -> str:
    """The third claim: without rescaling the score falls as Δ climbs back."""
    seen = [(m, c) for m in models for c in m.courses if c.number > 1]
    blind = [m.model for m in models if m.courses and m.courses[0].number < 2]
    fell = [(m, c) for m, c in seen if c.last < c.first]
    if seen:
        verdict = 'did not show' if not fell else f'seen in {len(fell)} of '
        verdict += f'{plural(len(seen), "score")}' if fell else ''
    else:
        verdict = 'not tested'
    text = (
        '**Without rescaling the score falls within the second stage, as Δ climbs: '
        f'{verdict}.**'
    )
    for model, course in seen:
        text += (
            f' {model.model}: {METRICS[course.metric]} goes from {course.first:.1f} to '
            f'{course.last:.1f} over {course.number} validations in that stage.'
        )
    if blind:
        text += f' One validation in that stage cannot show it: {"; ".join(blind)}.'
    return text


def _range(values: Iterable[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return number(None)
    low, high = number(min(known)), number(max(known))
    return low if low == high else f'{low} to {high}'


def _table(models: Sequence[ModelSummary]) -> str:
    numbers = sorted({a.stage for model in models for a in model.after})
    head = ['model', 'seeds', 'layers in equilibrium, stage 0', 'Δ_rms/Δ*, stage 0']
    for stage in numbers:
        head.append(f'stage {stage}, plain → rescaled')
    head += ['final score, rescaled − plain (95 %)', 'layer stages that fail']
    rows = []
    for model in models:
        after = {
            a.stage: f'{number(a.plain.median)} → {number(a.rescaled.median)}'
            for a in model.after
        }
        rows.append(
            (
                *(model.model, model.seeds, f'{model.there} of {model.layers}'),
                number(model.first.median),
                *(after.get(stage, '–') for stage in numbers),
                '; '.join(map(_difference, model.ends)) or '–',
                f'{model.failing} of {model.stages}',
            )
        )
    return table(head, rows)


def _difference(pair: Paired) -> str:
    per_cent = per_cent_of(pair.metric)
    text = f'{METRICS[pair.metric]} {per_cent * pair.mean:+.1f}'
    if np.isfinite(pair.p_value):
        low, high = (per_cent * bound for bound in pair.interval)
        text += f' ({low:+.1f} to {high:+.1f})'
    return text
