"""The report over all layers, and how it reads."""

import io
import re

import numpy as np
from rich.console import Console
from simulation import LR, records_of, small_walk

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
    assert 'corollary_3_1' in text
