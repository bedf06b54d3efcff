"""Tables in a terminal: nothing cut, nothing said twice, no escape sequences."""

import io
import re
import unicodedata

import pytest
from rich.console import Console

from smd_mmdet.checks import Check, LayerReport, Report, StageReport, StageSummary
from smd_mmdet.report.compare import Comparison, Row, RunSummary, StageComparison
from smd_mmdet.report.fitting import FittedTable
from smd_mmdet.report.grouping import select, together
from smd_mmdet.report.planning import render_plan
from smd_mmdet.report.tables import (
    render_audit,
    render_comparison,
    render_report,
)

FIGURE = re.compile(r'\d[\d,.e-]*')
WIDTHS = (40, 60, 80, 100, 120, 200)
HOSTILE = 'conv\x1b[2J\x1b]0;title\x07\x9b31m\r\u202e[bold]\n'


def printed(rendered, width=120, **settings):
    console = Console(width=width, file=io.StringIO(), **settings)
    console.print(rendered)
    return console.file.getvalue()


def a_report(names, stages=(0, 1), state='unreachable in this stage'):
    """Each layer of which the same is to be said, but for the figures."""
    layers = []
    for number, name in enumerate(names):
        reports = []
        for stage in stages:
            reason = f'about {17_000 + number:,} iterations more are needed'
            check = Check(
                'angular_update', 'conclusion', number, 1, -1, 'fails', reason
            )
            other = Check('lemma_1', 'conclusion', 0.1, 1, 1, 'holds', 'cosine is 0.1')
            ratio = 0.1 + 0.01 * number
            reports.append(
                StageReport(stage, 1, 1000, 0.1, 1e-4, 0.9, ratio, 1.5, 1.0, state)
            )
            reports[-1].checks = [check, other]
        layers.append(LayerReport(name, [3, 3], reports))
    summaries = [
        StageSummary(
            stage, 1, 7_557_461, 0.1, len(names), 0, {state: len(names)}, 0.1, 1
        )
        for stage in stages
    ]
    return Report(layers, summaries, 'the theory fails', 1)


def a_plan(name='conv1'):
    course = dict(start=1.45e-4, end=1.57e-4, start_ratio=0.316, end_ratio=0.342)
    stages = [
        dict(
            stage=number,
            first_iter=1,
            last_iter=7_557_461 + number,
            lr_start=0.02,
            lr_end=0.002,
            stairs=None,
            angular_update_eq=4.59e-4,
            angular_update_eq_end=1.45e-4,
            relaxation_iterations=12_345.0 + number,
            iterations_to_equilibrium=75_574_610.0,
            plain=course,
            rescaled=course,
            always_clipped=course,
            outcomes=dict(usual_start=1.5e-4, suggested_decay=1.75e-3),
            suggested_decay=0.0123,
            control=None,
        )
        for number in range(4)
    ]
    layer = dict(layer=name, weight_norm=1.5, unit_grad_sq=0.25)
    layer['stages'] = [dict(plain=course, rescaled=course)] * 4
    return dict(
        exit_code=1, verdict=name, assumptions=[name], warnings=[name], stages=stages,
        notes=[name], rescales=False, usual_start=name, layers=[layer],
    )  # fmt: skip


def an_audit(name='conv1'):
    parameter = dict(name=name, invariant=True, reason=name, proof=dict(cosine=1.2e-17))
    summary = dict(
        invariant_layers=1,
        layers=1,
        share_of_layers=1.0,
        share_of_weights=1.0,
        weights=9,
    )
    return dict(
        parameters=[parameter], summary=summary, contradictions=[name], advice=[name]
    )


def a_comparison(name='conv1', runs=6):
    values = [1234.5 + number for number in range(runs)]
    summaries = [RunSummary(f'{name}{k}', name, name, 10, 1) for k in range(runs)]
    stage = StageComparison(0, [0.1] * runs, [Row('median Δ/Δ*', values)])
    rows = [Row(name, values)]
    return Comparison(summaries, [stage], rows, rows, [name])


SCREENS = {
    'check': lambda name: render_report(a_report([name]), verbose=True),
    'check --layer': lambda name: render_report(a_report([name]), by_layer=True),
    'plan': lambda name: render_plan(a_plan(name)),
    'audit': lambda name: render_audit(an_audit(name)),
    'compare': lambda name: render_comparison(a_comparison(name)),
}


@pytest.mark.parametrize('screen', SCREENS)
def test_no_figure_is_cut_at_any_width(screen):
    rendered = SCREENS[screen]('a')
    whole = set(FIGURE.findall(printed(rendered, 1000)))
    for width in WIDTHS:
        text = printed(rendered, width)
        assert set(FIGURE.findall(text)) <= whole
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize('screen', SCREENS)
def test_what_others_wrote_moves_nothing_in_a_terminal(screen):
    """Layers, settings and folders are named by others; colours are rich's own."""
    text = printed(SCREENS[screen](HOSTILE), 200)
    moving = {c for c in text if unicodedata.category(c) in ('Cc', 'Cf')} - {'\n'}
    assert not moving
    assert '\\x1b[2J' in text and '[bold]' in text


def test_what_there_is_no_room_for_is_named():
    table = FittedTable('', 'a', 'b', 'c', drop=['b'])
    table.add_row('1' * 15, '2' * 15, '3' * 15)
    assert 'no room for' not in printed(table, 60)
    narrow = printed(table, 45)
    assert 'no room for: b (' in narrow and '3' * 15 in narrow
    assert 'no room for: b, c (' in printed(table, 30)


def test_runs_go_on_in_a_further_table():
    for width in WIDTHS:
        text = printed(render_comparison(a_comparison('run')), width)
        assert all(f'run{number} ' in text for number in range(6))
        assert 'no room for' not in text


def test_layers_of_which_the_same_is_said_share_a_row():
    report = a_report([f'conv{number}' for number in range(50)])
    text = printed(render_report(report))
    # The furthest from 1 is named.
    assert 'conv0 and 49 more' in text and '0.1–0.59' in text
    assert '17,000–17,049' in ' '.join(text.split())
    assert len(text.splitlines()) < 40
    report.layers[7].stages[-1].note = 'its gradient is 0'
    text = printed(render_report(report))
    assert 'conv0 and 48 more' in text and 'its gradient is 0' in text
    assert len(printed(render_report(report, verbose=True)).splitlines()) < 80


def test_a_dash_is_not_taken_for_a_minus():
    assert together(['h̃ is -0.2', 'h̃ is -0.1']) == 'h̃ is -0.2 … -0.1'


def test_one_layer_and_one_stage_can_be_chosen():
    report = a_report(['conv1.weight', 'conv2.weight'], stages=(-1, 0, 1))
    chosen = select(report, ['conv2'], 0)
    assert [layer.layer for layer in chosen.layers] == ['conv2.weight']
    assert [stage.stage for stage in chosen.layers[0].stages] == [0]
    assert [stage.stage for stage in chosen.stages] == [0]
    assert (chosen.verdict, chosen.exit_code) == (report.verdict, report.exit_code)
    with pytest.raises(ValueError, match=r"no layer 'conv3'.*did you mean 'conv"):
        select(report, ['conv3'])
    with pytest.raises(
        ValueError, match=r'no stage 7 .*there: warm-up, stage 0, stage 1'
    ):
        select(report, stage=7)


def test_an_audit_begins_with_its_summary():
    lines = printed(render_audit(an_audit())).splitlines()
    assert lines[0].startswith('1 of 1 layers are scale-invariant')
    assert 'parameter' in lines[4]
