"""The data of the page, against the records."""

import base64
import json

import numpy as np
import pytest
from runs import simulated, with_columns

from smd_mmdet.report import page_data as page_data_module
from smd_mmdet.report import panels
from smd_mmdet.report.figures import draw
from smd_mmdet.report.page import render_page
from smd_mmdet.report.page_data import page_data
from smd_mmdet.report.run import Motion, run_of


def decode(data, place):
    """An array as plotly.js reads it."""
    spec = data['arrays'][place]
    return np.frombuffer(base64.b64decode(spec['bdata']), f'<{spec["dtype"]}')


def test_page_data_are_the_records(run):
    data = page_data(run)
    layer, truth = data['layers'][1], run.layers[1]
    for name in ('angle', 'ratio', 'norm', 'norm_eq', 'cosine'):
        times, values = (decode(data, place) for place in layer['lines'][name])
        assert times.tolist() == truth.iter.tolist()
        np.testing.assert_allclose(values, getattr(truth, name), rtol=1e-6)
    times, values = (decode(data, place) for place in layer['lines']['angle_eq'])
    held = values[np.searchsorted(times, truth.iter, side='right') - 1]
    np.testing.assert_allclose(held, truth.angle_eq, rtol=1e-6)
    edges, ratios = run.heat()
    assert data['heat']['edges'] == edges.tolist()
    shown = np.array(data['heat']['rows'], float)
    np.testing.assert_allclose(shown, ratios, rtol=5e-3)
    found = run.report.layers[1].stages[-1].checks
    assert [c[0] for c in layer['stages'][-1]['checks']] == [c.name for c in found]


def test_axes_hold_what_they_show(run):
    """All of each panel but the least of its values; of the distance all but 5 %."""
    data = page_data(run)
    for layer, truth in zip(data['layers'], run.layers, strict=True):
        assert layer['ranges'].keys() == {'angle', 'unit', 'cosine', 'distance'}
        for name, limits in layer['ranges'].items():
            values = getattr(truth, name)
            values = values[np.isfinite(values)]
            # A logarithm is only for what is above 0 throughout.
            assert (limits is None) == (values <= 0).any()
            if limits is not None:
                low, high = 10 ** np.array(limits)
                outside = (values < low).mean()
                assert outside <= (0.05 if name == 'distance' else 0.0)
                assert values.max() < high < 10 * values.max()
    ranges = {quantity['series']: quantity['range'] for quantity in data['quantities']}
    greatest = max(np.nanmax(layer.angle_eq) for layer in run.layers)
    assert ranges['angle'][1] >= np.log10(greatest)
    assert ranges['ratio'][1] > 0


def starved(number, since):
    """A run of 60 layers, one of which turns a thousand times too slowly in the end."""
    names = [f'layer{i}' for i in range(60)]
    records = simulated(names, window=5, lr=np.full(300, 0.05))
    layer = np.array(records.table['layer'].to_pylist())
    ends = records.table['iter'].to_numpy() > since
    slow = np.where((layer == f'layer{number}') & ends, 1e-3, 1.0)
    columns = {'angular_update_mean': slow, 'angular_update_var': slow**2}
    scaled = {n: records.table[n].to_numpy() * by for n, by in columns.items()}
    return run_of(with_columns(records, **scaled), 'starved')


def test_no_axis_cuts_off_a_starved_layer():
    """Its values are fewer than two in a hundred of all."""
    run = starved(59, since=0)
    lowest = {
        name: min(np.nanmin(getattr(each, name)) for each in run.layers)
        for name in ('angle', 'ratio')
    }
    for quantity in page_data(run)['quantities']:
        if quantity['series'] in lowest:
            assert 10 ** quantity['range'][0] < lowest[quantity['series']]
    low, _ = draw(run, names=['angular_update'])['angular_update'].axes[0].get_ylim()
    assert low < lowest['angle']


def test_the_page_begins_with_the_layer_furthest_from_equilibrium():
    run = starved(17, since=100)
    assert page_data(run)['first'] == 17
    assert 'layer17' in [layer.name for layer in run.examples()]


def test_reasons_are_told_word_by_word(run):
    """They travel as words and figures, which must come together again."""
    data = page_data(run)
    for layer, truth in zip(data['layers'], run.report.layers, strict=True):
        for stage, known in zip(layer['stages'], truth.stages, strict=True):
            told = []
            for place in (check[6] for check in stage['checks']):
                words, *figures = data['reasons'][place]
                pairs = zip(data['sentences'][words], [*figures, ''], strict=True)
                told.append(''.join(word + figure for word, figure in pairs))
            assert told == [check.reason for check in known.checks]


def test_stages_are_called_as_in_the_figures(run):
    names = [name for stage in page_data(run)['stages'] for name in stage['names']]
    axes = draw(run, names=['angular_update'])['angular_update'].axes[0]
    written = {text.get_text() for text in axes.texts if 'Δ*' not in text.get_text()}
    assert written <= set(names)
    assert 'stage 1, lr 0.005' in names


def test_a_panel_with_values_below_zero_is_not_logarithmic():
    records = simulated()
    lowered = records.table['unit_h_mean'].to_numpy() - 1.0
    layer = page_data(run_of(with_columns(records, unit_h_mean=lowered), 'below'))
    assert layer['layers'][0]['ranges']['unit'] is None


def test_a_long_run_is_thinned_to_what_the_page_can_hold(monkeypatch):
    monkeypatch.setattr('smd_mmdet.report.page_data.MOST_POINTS', 4800)
    run = run_of(simulated(window=1), 'long')
    data = page_data(run)
    for layer, truth in zip(data['layers'], run.layers, strict=True):
        for name in ('angle', 'unit', 'cosine'):
            _, values = (decode(data, place) for place in layer['lines'][name])
            assert len(values) <= 2 * 4800 / (3 * 8 * 2) + 2
            known = getattr(truth, name)
            assert values.max() == pytest.approx(known.max(), rel=1e-6)
            assert values.min() == pytest.approx(known.min(), rel=1e-6)


def test_a_new_quantity_is_a_property_and_an_entry(run, monkeypatch):
    """It has a panel, an axis, a choice and last values."""
    twice = property(lambda layer: 2 * layer.norm)
    monkeypatch.setattr(Motion, 'twice', twice, raising=False)
    mine = panels.Panel('mine', 'twice', (panels.Line('twice', 'twice ‖w‖', 3),))
    every = panels.Quantity('twice', 'Twice ‖w‖')
    for module in (panels, page_data_module):
        monkeypatch.setattr(module, 'PANELS', (*panels.PANELS, mine))
        monkeypatch.setattr(module, 'QUANTITIES', (*panels.QUANTITIES, every))
    data = page_data(run)
    assert data['panels'][-1]['title'] == 'twice'
    _, values = (decode(data, place) for place in data['layers'][0]['lines']['twice'])
    np.testing.assert_allclose(values, 2 * run.layers[0].norm, rtol=1e-6)
    low, high = 10 ** np.array(data['layers'][0]['ranges']['mine'])
    assert low < values.min() <= values.max() < high
    choice = data['quantities'][-1]
    assert (choice['title'], choice['reference']) == ('Twice ‖w‖', None)
    last = sorted(2 * layer.norm[-5:].mean() for layer in run.layers)
    told = [value for _, value in choice['ends']]
    np.testing.assert_allclose(told, last, rtol=5e-3)


def test_page_json_is_json(run):
    page = render_page(run)
    text = page.split('id="data">')[1].split('</script>')[0]
    assert json.loads(text)['last'] == run.last_iter
