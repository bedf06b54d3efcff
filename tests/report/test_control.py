"""What the report shows of a run whose angular update was set."""

import base64
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from runs import simulated

from smd_mmdet.checks import check
from smd_mmdet.records import Records, to_table
from smd_mmdet.report.advice import advice, next_steps
from smd_mmdet.report.compare import compare
from smd_mmdet.report.figures import draw
from smd_mmdet.report.page import render_page
from smd_mmdet.report.page_data import page_data
from smd_mmdet.report.run import run_of
from smd_mmdet.report.tables import render_report


def controlled(off=1.0):
    """Three layers that turn by 1/off of what is wanted, multiplied now and then."""
    records = simulated()
    table = records.table
    columns = {name: table[name].to_pylist() for name in table.column_names}
    mean, variance = (
        np.array(columns[f'angular_update_{kind}']) for kind in ('mean', 'var')
    )
    columns['angular_update_wanted'] = off * np.sqrt(mean**2 + variance)
    number = np.arange(len(mean)) // 3
    columns['control_factor'] = np.where(number % 4 == 1, 0.9, 1.0)
    return Records(to_table(columns), records.metadata)


@pytest.fixture(scope='module')
def run():
    return run_of(controlled(), 'run')


def values(data, line):
    spec = data['arrays'][line[1]]
    return np.frombuffer(base64.b64decode(spec['bdata']), spec['dtype'])


def test_the_factor_is_the_product_of_all_controls_so_far(run):
    layer = run.layers[0]
    windows = len(layer.iter)
    expected = 0.9 ** np.array([(i + 3) // 4 for i in range(windows)])
    # The windows 1, 5, 9 … have a factor.
    assert layer.factor == pytest.approx(expected, rel=1e-12)
    assert layer.wanted_ratio == pytest.approx(np.ones(windows))


def test_the_page_has_a_panel_of_it(run):
    data = page_data(run)
    assert 'control' in [panel['name'] for panel in data['panels']]
    lines = data['layers'][0]['lines']
    assert values(data, lines['wanted_ratio']) == pytest.approx(1)
    assert values(data, lines['factor'])[-1] == pytest.approx(run.layers[0].factor[-1])
    assert values(data, lines['wanted']) == pytest.approx(
        values(data, lines['angle']), rel=1e-6
    )
    page = render_page(run)
    assert '<dt>Wanted angular update</dt>' in page


def test_the_figure_is_drawn_where_something_was_wanted(run):
    figure = draw(run, names=['control'])['control']
    above, below = figure.axes[:2]
    assert above.get_ylabel() == 'Δ / wanted Δ'
    low, high = below.get_ylim()
    assert low < run.layers[0].factor.min() < high


def test_a_run_without_a_controller_has_none_of_it():
    plain = run_of(simulated(), 'run')
    assert not plain.controlled
    assert draw(plain, names=['control']) == {}
    assert not {'wanted', 'factor'} & set(page_data(plain)['layers'][0]['lines'])
    assert '<dt>Wanted angular update</dt>' not in render_page(plain)


def shown(report):
    console = Console(width=140)
    with console.capture() as kept:
        console.print(render_report(report))
    return kept.get()


def test_tables_and_advice_speak_of_control_and_not_of_equilibrium(run):
    text = shown(run.report)
    assert 'near wanted Δ' in text and '100 %' in text
    assert 'Δ set' in text
    assert '>Δ is set</td>' in render_page(run)
    assert 'Not in equilibrium' not in text
    assert advice(run.report) == []
    [step] = next_steps(run.report)
    assert 'SMDRescaleHook sets Δ' in step and '100.0%' in step


def test_layers_that_stray_are_named():
    report = check(controlled(off=1.5))
    assert report.exit_code == 1
    [last, *_] = advice(report)
    assert 'is not within 10% of the wanted' in last and 'conv1' in last


def test_a_comparison_tells_whose_angle_was_set(tmp_path):
    kept = {'plain': simulated(), 'set': controlled()}
    folders = [tmp_path / name for name in kept]
    found = compare(folders, read=lambda path, **_: kept[Path(path).name])
    rows = {row.what: row.values for row in found.stages[-1].rows}
    assert rows['layers whose Δ is set'] == [0, 3]
    assert rows['share near the wanted Δ'] == [None, 1.0]
    plain = compare(folders, read=lambda path, **_: simulated())
    assert len(plain.stages[-1].rows) == 3
