"""One HTML page that shows and explains a run, and needs nothing but itself.

The page is the template ``page.html``, whose text from a run Jinja2 escapes, with the
style ``page.css``, the data of :mod:`~.page_data`, and two scripts: plotly.js and
``page.js``, which draws the data.
"""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smd_mmdet._text import visible
from smd_mmdet.checks import StageSummary
from smd_mmdet.theory import THEORIES

from .advice import advice, fine_print, next_steps
from .canvas import stage_labels
from .clipping import clipping_settings
from .overview import overview
from .page_data import page_data
from .remarks import far_outside, remarks
from .run import Run
from .symptoms import SYMPTOMS, shown_by
from .words import figure_words, plural, terms

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ['render_page']

HERE = Path(__file__).parent


def render_page(run: Run) -> str:
    """The page of a run.

    Args:
        run: The run to show.

    Returns:
        HTML with the figures' data, plotly's script and everything else in it. It
        asks the network for nothing, and its policy forbids it to.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    scripts = [_script(get_plotlyjs()), _script(_text_of('page.js'))]
    environment = Environment(
        autoescape=True,
        keep_trailing_newline=True,
        loader=FileSystemLoader(HERE, encoding='utf-8'),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    # `tojson` also escapes what could end a script element.
    environment.filters['code'] = _code
    environment.policies['json.dumps_kwargs'] = dict(
        ensure_ascii=False, allow_nan=False, separators=(',', ':')
    )
    theory, clipping = run.report.theory, run.metadata.get('clipping')
    steps, data = next_steps(run.report, clipping), page_data(run)
    return environment.get_template('page.html').render(
        policy=_policy(scripts),
        style=Markup(_text_of('page.css')),
        title=run.name,
        mark=_mark(run),
        verdict=_sentence(run.report.verdict),
        facts=_facts(run),
        overview=overview(run),
        terms=terms(theory),
        left_out=[f'{visible(part)}.' for part in run.left_out],
        advice=advice(run.report, clipping),
        next_steps=[*steps[:1], *far_outside(run), *steps[1:]],
        remarks=remarks(run),
        clipped=run.clipped,
        known={panel for each in data['layers'] for panel in each['lines']},
        white=data['white'],
        fine_print=fine_print(run.report),
        symptoms=list(zip(SYMPTOMS, shown_by(run.report), strict=True)),
        stages=_stages(run),
        settings=_settings(run),
        config=str(run.metadata.get('config') or ''),
        figures={
            name: dict(title=title, text=text)
            for name, (title, text) in figure_words(theory, run.clipped).items()
        },
        data=data,
        scripts=[Markup(script) for script in scripts],
    )


def _text_of(name: str) -> str:
    return (HERE / name).read_text('utf-8')


# ------------------------------------------------------------------ safety


def _script(text: str) -> str:
    """A script that cannot end its own element."""
    return text.replace('</script', r'<\/script').replace('<!--', r'<\!--')


def _policy(scripts: list[str]) -> str:
    """The page's content security policy.

    These scripts may run, and no other; nothing may be fetched.
    """
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in scripts
    ]
    allowed = ' '.join(f"'sha256-{code}'" for code in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        'img-src data: blob:'
    )


# ------------------------------------------------------------------ written parts


def _code(text: str) -> 'Markup':
    """A sentence of ours in which `words` are code."""
    from markupsafe import Markup, escape

    words = str(escape(text)).split('`')
    # Every second piece lies between two marks; a mark that is alone stays.
    if len(words) % 2 == 0:
        return escape(text)
    marked = [f'<code>{w}</code>' if i % 2 else w for i, w in enumerate(words)]
    return Markup(''.join(marked))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + '.'


def _mark(run: Run) -> str:
    """The verdict in one word: 'holds', 'fails', or 'look' where it is mixed."""
    report = run.report
    if report.exit_code:
        return 'fails'
    last = report.stages[-1] if report.stages else None
    if last is None or last.in_equilibrium + last.controlled < last.layers:
        return 'look'
    return 'holds'


def _facts(run: Run) -> list[str]:
    """How many layers, how much of the run was measured, and under which theory."""
    measured = run.report.measured_iterations
    # Of a run that goes on, or went on without the monitor, the records end early.
    whole = max(run.last_iter, run.metadata.get('max_iters') or 0)
    iterations = f'{measured:,} of {whole:,} iterations measured'
    if measured == whole:
        iterations = f'{whole:,} iterations, every one measured'
    known = THEORIES.get(run.report.theory)
    return [
        plural(len(run.layers), 'layer'),
        iterations,
        known.title if known else 'no theory',
    ]


def _stages(run: Run) -> list[tuple[str, ...]]:
    """The rows of the table of stages."""
    rows: list[tuple[str, ...]] = []
    for stage in run.report.stages:
        steady = stage.stage >= 0
        states = ', '.join(f'{n} {state}' for state, n in stage.states.items())
        rows.append(
            (
                stage_labels(stage)[0],
                f'{stage.first_iter:,}–{stage.last_iter:,}',
                _equilibrium(run, stage.stage) if steady else '–',
                _share_in_equilibrium(stage),
                _number(stage.median_angular_update_ratio),
                states if steady else '–',
            )
        )
    return rows


def _share_in_equilibrium(stage: StageSummary) -> str:
    """How many layers are there, of those that nothing holds elsewhere."""
    free = stage.layers - stage.controlled
    return f'{stage.in_equilibrium} of {free}' if free else 'Δ is set'


def _equilibrium(run: Run, number: int) -> str:
    """Δ* at the end of a stage: its range, where layers have their own settings."""
    ends = [each.angle_eq[each.stage == number][-1:] for each in run.layers]
    known = [end[0] for end in ends if np.isfinite(end).any()]
    if not known:
        return '–'
    return '–'.join(dict.fromkeys(map(_number, (min(known), max(known)))))


def _number(value: float | None) -> str:
    return '–' if value is None or not np.isfinite(value) else f'{value:.3g}'


def _clipping(clipping: dict[str, Any] | None) -> str:
    if not clipping:
        return '–'
    known = clipping_settings(clipping) or visible(clipping.get('reason') or '')
    return ', '.join(filter(None, [f'by {clipping.get("type")}', known]))


def _settings(run: Run) -> dict[str, Any]:
    """What the records say of how they were made."""
    metadata = run.metadata
    return {
        'Steps per window': metadata.get('window', '–'),
        'Theory': metadata.get('theory', '–'),
        'Clipping': _clipping(metadata.get('clipping')),
        **(metadata.get('packages') or {}),
    }
