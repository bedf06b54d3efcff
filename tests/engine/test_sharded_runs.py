"""Runs in which each process has a part of the weights, or of their state."""

import numpy as np
import pytest
import shard_runs
import torch
from processes import on_ranks
from tiny import rows_of
from versions import needs_torch

from smd_mmdet.records import read_records

# An earlier one asks a CPU for the streams of a GPU.
needs_fsdp = needs_torch(2, 6, 'FullyShardedDataParallel that runs on a CPU')


@pytest.fixture(scope='module')
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sharded')
    on_ranks(2, folder, 'fsdp', 'refused', program='shard_runs.py')
    return folder


def parts_of(folder):
    return [torch.load(folder / f'rank{rank}.pt') for rank in range(2)]


def near(rows, expected):
    assert list(rows.columns) == list(expected.columns)
    for name in expected.columns:
        got, want = rows[name].to_numpy(), expected[name].to_numpy()
        if want.dtype == object or name in ('iter', 'count', 'stage'):
            np.testing.assert_array_equal(list(got), list(want), err_msg=name)
            continue
        scale = max(1e-3, np.nanmax(np.abs(want), initial=0))
        atol = 1e-9 if 'cosine' in name else 1e-9 * scale if '_var' in name else 0
        np.testing.assert_allclose(got, want, 1e-6, atol, err_msg=name)


@needs_fsdp
def test_a_sharded_run_is_measured_as_a_whole_one(sharded, tmp_path):
    shard_runs.train(shard_runs.whole_config(tmp_path / 'single'))
    rows, expected = rows_of(sharded / 'measured'), rows_of(tmp_path / 'single')
    assert set(rows['layer']) == {'layers.0.weight', 'layers.3.weight'}
    near(rows, expected)
    layers = read_records(sharded / 'measured').metadata['layers']
    assert layers == read_records(tmp_path / 'single').metadata['layers']


@needs_fsdp
def test_the_parts_are_to_the_bit_those_without_the_hook(sharded):
    measured, plain = parts_of(sharded / 'measured'), parts_of(sharded / 'plain')
    for of_rank, expected in zip(measured, plain, strict=True):
        for part, want in zip(of_rank, expected, strict=True):
            assert torch.equal(part, want)
    assert any(not torch.equal(*pair) for pair in zip(*measured, strict=True))


@needs_fsdp
def test_clipping_by_the_norm_of_a_part_is_not_known(sharded):
    assert rows_of(sharded / 'clipped')['clipped_share'].isna().all()
    clipping = read_records(sharded / 'clipped').metadata['clipping']
    assert 'norm of that part' in clipping['reason']


def test_state_that_is_dealt_out_changes_no_digit(tmp_path):
    on_ranks(2, tmp_path, 'zero', program='shard_runs.py')
    rows, expected = rows_of(tmp_path / 'zero'), rows_of(tmp_path / 'whole')
    assert len(rows) and rows.equals(expected)
    for of_rank, want in zip(
        *map(parts_of, (tmp_path / 'zero', tmp_path / 'whole')), strict=True
    ):
        assert all(map(torch.equal, of_rank, want))
