"""The report over all layers, and how it reads."""

import io
import re

import numpy as np
import pytest
from rich.console import Console
from simulation import LR, last_stages, records_of, small_walk, with_columns

from smd_mmdet.checks import check
from smd_mmdet.report.tables import render_report


def test_warm_up_is_called_so():
    report = check(records_of(small_walk(lr=np.linspace(1e-4, LR, 400))))
    assert report.stages[-1].stage == report.to_dict()['stages'][-1]['stage'] == -1
    assert 'at the end of warm-up' in report.verdict
    console = Console(width=200, file=io.StringIO())
    console.print(render_report(report, verbose=True))
    text = console.file.getvalue()
    assert 'Checks of warm-up: layers' in text
    assert 'stage -1' not in text and not re.search(r'^ *-1 ', text, re.MULTILINE)


def test_verdicts_are_counted_by_stage_and_after_warm_up():
    lr = np.concatenate([np.linspace(1e-4, LR, 100), np.repeat([LR, LR / 10], 400)])
    report = check(records_of(small_walk(lr=lr)))
    assert [stage.stage for stage in report.stages] == [-1, 0, 1]
    for number, layers in ((-1, 2), (1, 2), (None, 4)):
        counts = report.verdict_counts(number)
        assert {sum(row.values()) for row in counts.values()} == {layers}


def test_tables_render():
    report = check(records_of(small_walk(lr=np.repeat([LR, LR / 10], [600, 300]))))
    console = Console(width=120, file=io.StringIO())
    for verbose in (False, True):
        console.print(render_report(report, verbose=verbose))
    text = console.file.getvalue()
    assert '0 of 2 layers in equilibrium' in text
    # Δ* = √(2·3e-3·0.05/1.9) of stage 0, far beyond what detectors are trained at.
    assert 'Δ* is 1.26e-2 rad an iteration at its highest' in text
    assert 'times the largest of known recipes' in ' '.join(text.split())
    assert 'corollary_3_1' in text


def test_a_run_that_has_just_begun_is_too_early_to_judge():
    for steps in (60, 150):
        report = check(records_of(small_walk(steps, norm=9.0), window=10))
        assert report.exit_code == 0
        assert 'no conclusion of the theory fails' not in report.verdict
        assert f'too early: {steps} iterations' in report.verdict
        assert 'a verdict needs 200' in report.verdict
        # ‖w‖⁴ relaxes at 4λη/(1−α): how long is told, to the noise of L.
        told = int(re.search(r'about (\S+) more', report.verdict)[1].replace(',', ''))
        rest = small_walk(steps + int(1.3 * told), norm=9.0)
        late = last_stages(check(records_of(rest, window=10)))
        assert all(stage.state != 'stage too short' for stage in late)
        ends = rest.series['weight_norm'][-1] / small_walk(1).norm
        assert (np.abs(ends - 1) < 0.1).all()
        assert {s.state for s in last_stages(report)} == {'stage too short'}
    warm = check(records_of(small_walk(lr=np.linspace(1e-4, LR, 60)), window=10))
    assert 'too early: 60 iterations' in warm.verdict


def test_a_headline_without_any_verdict_says_so():
    nothing = dict(unit_grad_sq_max=np.zeros(24 * 2))
    report = check(with_columns(records_of(small_walk()), **nothing))
    assert 'no conclusion of the theory could be tested' in report.verdict


def test_the_rate_of_a_stage_is_that_of_its_layers():
    records = records_of(small_walk(400, layers=3))
    first = records.table['layer'].to_numpy(zero_copy_only=False) == 'layer0'
    lr, count = (records.table[k].to_numpy().copy() for k in ('lr', 'count'))
    count[first] = 0  # no step at all
    (stage,) = check(with_columns(records, count=count)).stages
    assert (stage.lr, stage.lr_range, stage.rate_text) == (LR, (LR, LR), '0.05')
    lr[first] *= 0.1  # lr_mult
    report = check(with_columns(records, lr=lr))
    (stage,) = report.stages
    assert stage.lr == LR
    assert stage.lr_range == pytest.approx((LR / 10, LR))
    console = Console(width=200, file=io.StringIO())
    console.print(render_report(report))
    assert '0.005 to 0.05' in console.file.getvalue()
