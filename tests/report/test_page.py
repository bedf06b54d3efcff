"""What is written on the page, which no browser is needed to read."""

import subprocess
import sys
from functools import partial

import numpy as np
import pyarrow.compute as pc
import pytest
from runs import NAMES, simulated, with_columns, write_run

from smd_mmdet.records import Records, RecordWriter, read_records
from smd_mmdet.report.overview import overview
from smd_mmdet.report.page import render_page
from smd_mmdet.report.run import read_run, run_of
from smd_mmdet.report.words import TERMS


def test_page_is_one_file_with_one_plotly(run):
    page = render_page(run)
    assert page.count('plotly.js v') == 1
    assert '{{' not in page.split('<script')[0]
    assert run.report.verdict[1:] in page
    for outside in ('src="http', 'href="http', '@import', 'url('):
        assert outside not in page.split('<script')[0]


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


LOG = """\
{date} - mmengine - INFO - Iter(train) [ 100/1500]  lr: 5.0e-02  loss: 1.9025  \
loss_cls: 0.6710
{date} - mmengine - INFO - Iter(val) [60/60]    coco/bbox_mAP: 0.4970  \
coco/bbox_mAP_50: 0.7  coco/segm_mAP: 0.3010
{date} - mmengine - INFO - Iter(train) [1500/1500]  lr: 5.0e-04  loss: 0.9470
{date} - mmengine - INFO - Iter(val) [60/60]    coco/bbox_mAP: 0.4850  \
coco/bbox_mAP_50: 0.7  coco/segm_mAP: 0.3120
"""


def test_results_date_and_settings_stand_beside_the_verdict(tmp_path):
    config = 'train_dataloader = dict(batch_size=4, dataset=dict(batch_size=9))'
    facts = {'started': '20261125_100000', 'config': config}
    work_dir = write_run(tmp_path / 'run', metadata=facts)
    (work_dir / '20261125_100000').mkdir()
    log = work_dir / '20261125_100000' / '20261125_100000.log'
    log.write_text(LOG.format(date='2026/11/25 10:00:00'))
    facts = {fact.name: fact for fact in overview(read_run(work_dir))}
    assert {name: fact.value for name, fact in facts.items()} == {
        'box AP': '48.5',
        'mask AP': '31.2',
        'loss': '0.947',
        'begun': '2026-11-25',
        'learning rate': '0.05, 0.005',
        'weight decay': '0.002',
        'momentum': '0.8',
        'batch': '4',
    }
    assert facts['box AP'].detail == 'iteration 1,500; best 49.7 at 100'
    head = render_page(read_run(work_dir)).split('</header>')[0]
    for fact in facts.values():
        assert f'<dt>{fact.name}</dt><dd>{fact.value}</dd>' in head


@pytest.mark.parametrize(
    'config',
    [
        '',
        'no python (',
        'train_dataloader = x',
        'train_dataloader = dict(batch_size=n)',
    ],
)
def test_what_is_not_known_of_a_run_is_left_out(config):
    run = run_of(simulated(metadata={'config': config}), 'plain')
    assert {'learning rate', 'weight decay', 'momentum'} == {
        fact.name for fact in overview(run)
    }


def test_the_page_tells_what_was_left_out(tmp_path):
    records = simulated()
    writer = RecordWriter(tmp_path, records.metadata)
    for stage in (0, 1):
        part = records.table.filter(pc.field('stage') == stage)
        writer.append({name: part[name].to_pylist() for name in part.column_names})
    damaged = sorted(writer.folder.iterdir())[1]
    damaged.write_bytes(b'nonsense')
    read = partial(read_records, skip_damaged=True)
    page = render_page(read_run(tmp_path, read))
    warning = page.split('id="left-out"')[1].split('</div>')[0]
    assert damaged.name in warning
    assert 'iterations 961' in warning
    assert 'id="left-out"' not in render_page(run_of(records, 'whole'))


def test_the_fine_print_is_folded_away(run):
    """The walk's λη is too large for assumption 4, which alarms nobody."""
    page = render_page(run)
    before, folded = page.split('<details id="fine-print">')
    assert 'Assumptions of the theorems that fail' in folded.split('</details>')[0]
    assert 'that fail in' not in before


def test_terms_are_explained_once_before_they_are_used(run):
    page = render_page(run)
    body = page.split('<body>')[1].split('<script')[0]
    for term in TERMS:
        assert body.count(f'<dfn>{term}</dfn>') == 1
    before = body.split('id="terms"')[0]
    assert not [term for term in ('Δ', 'w*', 'h̃', 'λη') if term in before]
    # What stands beside the verdict speaks of stages and equilibrium: they come next.
    assert body.index('id="terms"') < body.index('id="advice"')


def test_the_page_shows_the_range_of_the_equilibria():
    """√(2λη/(1+α)) of λ = 2e-3 and, in one layer, 8e-3."""
    records = simulated(lr=np.full(400, 0.05))
    other = np.array(records.table['layer'].to_pylist()) == NAMES[1]
    decay = records.table['weight_decay'].to_numpy() * np.where(other, 4.0, 1.0)
    angle = records.table['angular_update_eq'].to_numpy() * np.where(other, 2.0, 1.0)
    both = with_columns(records, {}, weight_decay=decay, angular_update_eq=angle)
    low = np.sqrt(2 * 2e-3 * 0.05 / 1.8)
    page = render_page(run_of(both, 'two decays'))
    assert f'<td>{low:.3g}–{2 * low:.3g}</td>' in page
    assert f'<td>{low:.3g}</td>' in render_page(run_of(records, 'one decay'))


def test_neither_torch_nor_mmengine_is_needed():
    code = (
        'import sys; import smd_mmdet.report.page, smd_mmdet.report.compare; '
        'print({"torch", "mmengine", "mmcv"} & set(sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == 'set()\n', done.stderr
