"""What is written on the page, which no browser is needed to read."""

import subprocess
import sys

import numpy as np
from runs import NAMES, simulated, with_columns

from smd_mmdet.records import Records
from smd_mmdet.report.page import render_page
from smd_mmdet.report.run import run_of


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
