"""The tutorial as a notebook, executed from a clean kernel."""

import base64
import json
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from smd_mmdet import theory
from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / 'demo/smd_tutorial.ipynb'
NEEDED = ('duckdb', 'ipykernel', 'mmdet', 'nbclient', 'pandas')
MISSING = [name for name in NEEDED if find_spec(name) is None]
needs_kernel = pytest.mark.skipif(
    bool(MISSING), reason=f'{", ".join(MISSING)} missing: requirements/docs.txt'
)
# In the place of the cell that is tagged 'parameters'.
SHORT = 'warmup, drop, end = 2, 8, 12\ntrain_images, val_images, size = 12, 2, 64'


def execute(folder, monkeypatch, parameters=None):
    """Run the notebook in a folder; the text, tables and pictures that came out."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if parameters and 'parameters' in cell.metadata.get('tags', ()):
            cell.source = parameters
    # `smd` of this checkout, whatever the environment has.
    command = folder / 'bin' / 'smd'
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m smd_mmdet.cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv('PATH', f'{command.parent}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name='python3',
        resources={'metadata': {'path': str(folder)}},
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get('outputs', ())]
    text = '\n'.join(out.get('text', '') for out in outputs)
    pictures = [
        out.data['image/png'] for out in outputs if 'image/png' in out.get('data', {})
    ]
    return re.sub(r'\x1b\[[\d;]*m', '', text), pictures


def ratios(folder, after):
    """Δ/Δ* of the windows after an iteration, and whether Δ* is the theory's."""
    table = read_records(folder).table.to_pandas()
    late = table[table.iter > after]
    known = theory.angular_update(late.lr.to_numpy(), 0.015, 0.9)
    assert late.angular_update_eq.to_numpy() == pytest.approx(known)
    return np.sqrt(late.angular_update_mean**2 + late.angular_update_var) / known


@needs_kernel
def test_it_runs_from_a_clean_kernel(tmp_path, monkeypatch):
    """A few iterations, through every cell."""
    text, pictures = execute(tmp_path, monkeypatch, SHORT)
    assert 'error:' not in text and 'command not found' not in text
    for said in (
        'learning rate 0.05: Δ* = 0.0281 rad per iteration',
        '27 scale-invariant weights rescaled by 0.5623',
        'work_dirs/plain/report/report.html',
        'wrote work_dirs/plain/compare/angular_update.png',
    ):
        assert said in text
    # Data, Δ plain and rescaled, the report's figure, the comparison's.
    assert len(pictures) == 5
    assert all(base64.b64decode(p).startswith(b'\x89PNG') for p in pictures)
    work_dirs = tmp_path / 'smd_tutorial/work_dirs'
    # Each run has scores of its own, though MMEngine shares the visualizer.
    assert len(list(work_dirs.glob('*/*/vis_data/scalars.json'))) == 2
    plain, rescaled = (ratios(work_dirs / name, 8) for name in ('plain', 'rescaled'))
    # Δ goes with 1/‖w‖² and the factor is 10^(-1/4); the gradients are other ones
    # from the second iteration on.
    assert np.median(rescaled / plain) == pytest.approx(10**0.5, rel=0.1)


@needs_kernel
@pytest.mark.slow
def test_whole_it_shows_what_it_says(tmp_path, monkeypatch):
    text, pictures = execute(tmp_path, monkeypatch)
    work_dirs = tmp_path / 'smd_tutorial/work_dirs'
    plain, rescaled = (ratios(work_dirs / name, 400) for name in ('plain', 'rescaled'))
    assert '27 unreachable in this stage' in text
    assert np.median(plain) < 0.6
    assert np.median(rescaled) == pytest.approx(1, abs=0.2)
    assert len(pictures) == 5


def test_git_has_it_without_outputs():
    cells = json.loads(NOTEBOOK.read_text('utf-8'))['cells']
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    assert len(code) > 10
    assert all(not c['outputs'] and c['execution_count'] is None for c in code)
    assert NOTEBOOK.stat().st_size < 30_000
    assert sum('parameters' in cell['metadata'].get('tags', ()) for cell in cells) == 1
