"""Reduction against numpy, figures and page data against the records."""

import base64
import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import NAMES, simulated, write_run
from tiny import TinyNet, tiny_config

from smd_mmdet import theory
from smd_mmdet.cli import main
from smd_mmdet.records import Records, RecordsError, to_table
from smd_mmdet.report import write_files, write_report
from smd_mmdet.report.figures import FIGURES, draw
from smd_mmdet.report.page import page_data, render_page
from smd_mmdet.report.reduce import min_max, split_points, time_bounds, time_means
from smd_mmdet.report.run import run_of
from smd_mmdet.report.words import advice


@pytest.fixture(scope='module')
def run():
    return run_of(simulated(), 'simulated')


# ------------------------------------------------------------------ reduction

lines = st.lists(
    st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)), min_size=1, max_size=300
)


@settings(max_examples=150, deadline=None)
@given(lines, st.integers(1, 40))
def test_every_bucket_keeps_its_extremes(values, buckets):
    values = np.array(values)
    kept = min_max(values, buckets)
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    assert len(kept) <= 2 * buckets + 2
    width = -(-len(values) // buckets)
    for start in range(0, len(values), width):
        bucket = values[start : start + width]
        left = values[kept[(kept >= start) & (kept < start + width)]]
        known, still = bucket[np.isfinite(bucket)], left[np.isfinite(left)]
        if len(known):
            assert (still.min(), still.max()) == (known.min(), known.max())
        else:
            assert len(left) >= 1
            assert np.isnan(left).all()


def test_short_lines_are_kept_whole():
    assert min_max(np.arange(20.0), 10).tolist() == list(range(20))
    with pytest.raises(ValueError, match='buckets must be at least 1'):
        min_max(np.arange(20.0), 0)


@settings(max_examples=100, deadline=None)
@given(lines, st.integers(1, 30))
def test_time_columns_against_numpy(values, columns):
    values = np.array(values)
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, len(values)))
    edges = split_points(times, columns)
    means, (low, high) = (
        time_means(times, values, edges),
        time_bounds(times, values, edges),
    )
    for i, (start, end) in enumerate(pairwise(edges)):
        inside = values[(times > start) & (times <= end)]
        inside = inside[np.isfinite(inside)]
        if not len(inside):
            assert np.isnan([means[i], low[i], high[i]]).all()
            continue
        assert means[i] == pytest.approx(inside.mean(), rel=1e-9, abs=1e-6)
        assert (low[i], high[i]) == (inside.min(), inside.max())


# ------------------------------------------------------------------ what is drawn


def test_target_norm_is_that_of_the_mean_over_200_iterations(run):
    layer = run.layers[0]
    middle = len(layer.iter) // 3
    around = slice(middle - 5, middle + 5)
    unit = np.average(layer.unit[around], weights=layer.count[around])
    expected = theory.equilibrium_norm(0.05, 2e-3, unit, 0.8)
    assert layer.norm_eq[middle] == pytest.approx(float(expected), rel=1e-12)
    assert np.isnan(layer.norm_eq[layer.stage < 0]).all()


def test_expected_decay_is_followed_and_the_guarantee_is_slower(run):
    """At constant L the mean law is what the walk does."""
    for layer in run.layers:
        first = np.flatnonzero(layer.stage == 0)
        early = first[layer.distance[first] > 0.3]
        assert len(early) > 3
        ratio = layer.distance[early] / layer.expected[early]
        assert np.abs(ratio - 1).max() < 0.25
        assert (layer.guaranteed[first[1:]] > layer.expected[first[1:]]).all()


def test_all_figures_are_drawn(run):
    figures = draw(run)
    assert list(figures) == list(FIGURES)
    labels = [text.get_text() for text in figures['angular_update'].axes[0].texts]
    assert any(label.startswith('Δ* = ') for label in labels)
    assert figures['weight_norm'].axes[0].get_title(loc='left') == 'backbone.conv1'


def test_named_layers_are_drawn(run):
    figures = draw(run, ['neck.conv'])
    assert [axes.get_title(loc='left') for axes in figures['distance'].axes] == [
        'neck.conv'
    ]
    with pytest.raises(ValueError, match="no layer 'nonsense'"):
        draw(run, ['nonsense'])


@pytest.mark.parametrize('known', ['adamw', 'none'])
def test_without_theory_figures_that_need_it_are_left_out(known):
    records = simulated(metadata={'theory': known})
    if known == 'none':
        table = records.table
        for name in ('angular_update_eq', 'weight_norm_eq'):
            index = table.column_names.index(name)
            nothing = to_table({name: np.full(len(table), np.nan)})[name]
            table = table.set_column(index, name, nothing)
        records = Records(table, records.metadata)
    run = run_of(records, known)
    figures = draw(run)
    assert 'angular_update' in figures
    assert 'distance' not in figures
    assert ('equilibrium' in figures) == (known == 'adamw')
    assert 'data' in render_page(run)


def test_one_window_and_odd_names_are_enough():
    names = ['$x_{$', '<b>&amp;', 'a' * 300]
    records = simulated(names, window=30, lr=np.full(30, 0.05))
    run = run_of(records, 'odd')
    assert set(draw(run)) >= {'angular_update', 'cosine'}
    assert '&lt;b&gt;' not in render_page(run).split('id="data"')[0]


# ------------------------------------------------------------------ the page


def decode(data, index):
    text = data['pool'][index]
    kind = {'f': '<f4', 'H': '<u2', 'I': '<u4'}[text[0]]
    return np.frombuffer(base64.b64decode(text[1:]), kind)


def test_page_data_are_the_records(run):
    data = page_data(run)
    layer = data['layers'][1]
    assert decode(data, layer['iter']).tolist() == run.layers[1].iter.tolist()
    for name in ('angle', 'norm', 'norm_eq', 'cosine'):
        kept, values = (decode(data, index) for index in layer['lines'][name])
        truth = getattr(run.layers[1], name)
        assert kept.tolist() == list(range(len(truth)))
        np.testing.assert_allclose(values, truth, rtol=1e-6)
    kept, values = (decode(data, index) for index in layer['lines']['angle_eq'])
    held = values[np.searchsorted(kept, np.arange(len(truth)), side='right') - 1]
    np.testing.assert_allclose(held, run.layers[1].angle_eq, rtol=1e-6)
    found = run.report.layers[1].stages[-1].checks
    assert [c[0] for c in layer['stages'][-1]['checks']] == [c.name for c in found]


def test_page_is_one_file_with_one_plotly(run):
    page = render_page(run)
    assert page.count('plotly.js v') == 1
    assert '{{' not in page.split('<script')[0]
    assert run.report.verdict[1:] in page
    for outside in ('src="http', 'href="http', '@import', 'url('):
        assert outside not in page.split('<script')[0]


def test_layers_are_advised_on(run):
    text = ' '.join(advice(run.report))
    assert 'In stage 1, 3 layers did not reach equilibrium' in text
    assert 'k^(−1/4)' in text
    undecided = run_of(simulated(metadata={'theory': 'adamw'}), 'adamw')
    assert advice(undecided.report)[0].startswith('No verdict on 3 layers in stage 1: ')


def test_a_diverged_run_is_told_what_it_is():
    records = simulated(lr=np.full(400, 0.05))
    table = records.table
    for name in ('angular_update_mean', 'unit_h_mean', 'cosine_mean'):
        index = table.column_names.index(name)
        values = np.where(table['iter'].to_numpy() > 300, np.nan, table[name])
        table = table.set_column(index, name, to_table({name: values})[name])
    for warming in (False, True):
        if warming:
            index = table.column_names.index('stage')
            stage = {'stage': np.full(len(table), -1)}
            table = table.set_column(index, 'stage', to_table(stage)['stage'])
        report = run_of(Records(table, records.metadata), 'diverged').report
        assert {stage.state for each in report.layers for stage in each.stages} == {
            'diverged'
        }
        assert advice(report)[0].endswith(': the training diverged.')


def test_accumulated_steps_are_told_in_iterations():
    lr = np.repeat([0.05, 0.005], [600, 300])
    told = []
    for every in (1, 4):
        records = simulated(lr=lr, norm=None)
        index = records.table.column_names.index('iter')
        stretched = {'iter': records.table['iter'].to_numpy() * every}
        table = records.table.set_column(index, 'iter', to_table(stretched)['iter'])
        told.append(advice(run_of(Records(table, {}), 'accumulated').report)[0])
    # (1−α)/(4λη) = 5,000 steps, in a stage of 300.
    assert '1/e in 5,000 iterations, and the stage has 300.' in told[0]
    assert '1/e in 20,000 iterations, and the stage has 1,200.' in told[1]


def test_the_page_counts_what_was_measured(run):
    assert '1,500 iterations, every one measured' in render_page(run)
    records = simulated()
    late = records.table['iter'].to_numpy() > 400
    whole = records.metadata | {'max_iters': 2000}
    for table, metadata, told in (
        # The last window left out ends at 399.
        (records.table.filter(late), {}, '1,101 of 1,500'),
        (records.table, whole, '1,500 of 2,000'),
    ):
        page = render_page(run_of(Records(table, metadata), 'in part'))
        assert f'{told} iterations measured' in page
        assert 'every one measured' not in page


def test_the_page_shows_the_range_of_the_equilibria():
    """√(2λη/(1+α)) of λ = 2e-3 and, in one layer, 8e-3."""
    records = simulated(lr=np.full(400, 0.05))
    table = records.table
    other = np.array(table['layer'].to_pylist()) == NAMES[1]
    for name, factor in (('weight_decay', 4.0), ('angular_update_eq', 2.0)):
        values = table[name].to_numpy() * np.where(other, factor, 1.0)
        index = table.column_names.index(name)
        table = table.set_column(index, name, to_table({name: values})[name])
    low = np.sqrt(2 * 2e-3 * 0.05 / 1.8)
    page = render_page(run_of(Records(table, {}), 'two decays'))
    assert f'<td>{low:.3g}–{2 * low:.3g}</td>' in page
    assert f'<td>{low:.3g}</td>' in render_page(run_of(records, 'one decay'))


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('decay', [0.6, 2.4, 5.0])
def test_a_weight_decay_out_of_all_bounds_is_drawn(momentum, decay):
    lr = np.ones(60)
    records = simulated(lr=lr, weight_decay=decay, momentum=momentum, norm=1.0)
    run = run_of(records, 'large')
    assert 'cosine' in draw(run)
    assert np.isfinite(run.layers[0].norm_eq).any() == (decay < 2)
    assert 'data' in render_page(run)


def test_neither_torch_nor_mmengine_is_needed():
    code = (
        'import sys; import smd_mmdet.report.page, smd_mmdet.report.compare; '
        'print({"torch", "mmengine", "mmcv"} & set(sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == 'set()\n', done.stderr


# ------------------------------------------------------------------ files


def test_report_is_written(tmp_path, capsys):
    work_dir = write_run(tmp_path / 'run')
    assert main(['report', str(work_dir)]) == 0
    printed = capsys.readouterr().out.split()
    assert printed[0].endswith('run/report/report.html')
    assert sorted(p.name for p in (work_dir / 'report').iterdir()) == sorted(
        ['report.html', *(f'{name}.png' for name in FIGURES)]
    )
    before = (work_dir / 'report' / 'cosine.png').read_bytes()
    out = tmp_path / 'deep' / 'out'
    command = ['report', str(work_dir), '-o', str(out), '--svg', '--layer', NAMES[2]]
    assert main(command) == 0
    assert (out / 'cosine.svg').read_text('utf-8').rstrip().endswith('</svg>')
    assert (out / 'cosine.png').read_bytes() == before


@pytest.mark.parametrize('case', ['no run', 'no records', 'out is a file', 'layer'])
def test_bad_input_is_one_line(tmp_path, capsys, case):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    work_dir = write_run(tmp_path / 'run') if case[0] in 'ol' else tmp_path / 'empty'
    command = {
        'no run': ['report', str(tmp_path / 'nowhere')],
        'no records': ['report', str(work_dir)],
        'out is a file': ['report', str(work_dir), '-o', str(tmp_path / 'file')],
        'layer': ['report', str(work_dir), '--layer', 'nonsense'],
    }[case]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith('smd report: error: ')
    assert told.count('\n') == 1
    assert not (tmp_path / 'run' / 'report').exists()


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    write_files(tmp_path, {'a': b'old'})

    def fail(self, content):
        with open(self, 'wb') as file:
            file.write(content[:1])
        raise OSError('disk full')

    monkeypatch.setattr('pathlib.Path.write_bytes', fail)
    with pytest.raises(OSError, match='disk full'):
        write_files(tmp_path, {'a': b'new'})
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [('a', b'old')]


def test_damaged_records_are_named(tmp_path):
    work_dir = write_run(tmp_path / 'run')
    part = next((work_dir / 'smd').iterdir())
    part.write_bytes(b'nonsense')
    with pytest.raises(RecordsError, match=part.name):
        write_report(work_dir)


# ------------------------------------------------------------------ the hook


def validating_config(work_dir, when):
    from mmengine.evaluator import BaseMetric
    from mmengine.registry import METRICS

    @METRICS.register_module(force=True)
    class Guess(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(0.25)

        def compute_metrics(self, results):
            return {'coco/bbox_mAP': float(np.mean(results))}

    config = tiny_config(work_dir, max_iters=40)
    config.train_cfg.update(val_begin=0, val_interval=30)
    config.merge_from_dict(
        dict(
            custom_hooks=[dict(type='SMDHook', report=when, window=5, verify=False)],
            val_dataloader={
                **config.train_dataloader,
                'sampler': dict(type='DefaultSampler', shuffle=False),
            },
            val_cfg=dict(),
            val_evaluator=dict(type='Guess'),
            vis_backends=[dict(type='LocalVisBackend')],
        )
    )
    config.visualizer = dict(
        type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]
    )
    return config


def test_hook_writes_reports_and_shows_figures(tmp_path, monkeypatch):
    from mmengine.runner import Runner

    def forward(self, images, labels, mode='tensor', plain=TinyNet.forward):
        found = plain(self, images, labels, mode)
        return list(found) if mode == 'predict' else found

    monkeypatch.setattr(TinyNet, 'forward', forward)
    Runner.from_cfg(validating_config(tmp_path, 'val')).train()
    assert (tmp_path / 'report' / 'report.html').is_file()
    shown = {path.name for path in tmp_path.glob('*/vis_data/vis_image/smd_*')}
    assert {'smd_angular_update_30.png', 'smd_angular_update_40.png'} <= shown


def test_hook_survives_a_report_that_fails(tmp_path, monkeypatch):
    from mmengine.runner import Runner

    def fail(work_dir):
        raise RuntimeError('no ink')

    monkeypatch.setattr('smd_mmdet.engine.reporting.write_report', fail)
    config = tiny_config(tmp_path, max_iters=10, hook=dict(report=True, window=5))
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 10
    assert 'no ink' in next(tmp_path.glob('*/*.log')).read_text()


def test_hook_setting_is_checked():
    from smd_mmdet.engine import SettingError, SMDHook

    assert [SMDHook(report=s).report for s in (False, True, 'val')] == [
        False,
        True,
        'val',
    ]
    with pytest.raises(SettingError, match="report must be False, True or 'val'"):
        SMDHook(report='always')


def test_page_json_is_json(run):
    page = render_page(run)
    text = page.split('id="data">')[1].split('</script>')[0]
    assert json.loads(text)['last'] == run.last_iter
