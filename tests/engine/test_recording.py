"""Records of runs that are resumed, or on a disk that is full for a while."""

import numpy as np
import pytest
import torch
from tiny import log_of, rows_of, tiny_config, train, weights


def test_resumed_training_gives_the_same_rows(tmp_path):
    """Resumed at 25 and 50: within a window, one row of it already on disk."""
    whole = train(tiny_config(tmp_path / 'whole', hook=dict(window=10)))
    expected = rows_of(tmp_path / 'whole')
    short = tiny_config(tmp_path / 'parts', hook=dict(window=10))
    for checkpoint in ('iter_25.pth', 'iter_50.pth'):
        train(short)
        short.resume = True
        short.load_from = str(tmp_path / 'parts' / checkpoint)
        resumed = train(short)
        got = rows_of(tmp_path / 'parts')
        for name in expected.columns:
            for a, b in zip(got[name], expected[name], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)
        short.resume, short.load_from = False, None
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name])


@pytest.mark.parametrize('known', ['the window', 'the schedule'])
def test_a_new_window_at_a_resume_is_of_the_stage_under_way(tmp_path, known):
    """The window is of another size, or the first part was trained without the hook."""
    hook = dict(window=10) if known == 'the window' else None
    train(tiny_config(tmp_path, max_iters=50, hook=hook))
    checkpoint = str(tmp_path / 'iter_50.pth')
    config = tiny_config(tmp_path, hook=dict(window=5), resume=True)
    config.load_from = checkpoint
    train(config)
    rows = rows_of(tmp_path)
    # Warm-up to 10, the drop at 40.
    late = rows[rows.iter > 50]
    assert set(late.stage) == {1}
    assert late.lr.to_numpy() == pytest.approx(0.01)


def test_loading_weights_is_not_resuming(tmp_path):
    train(tiny_config(tmp_path / 'one', max_iters=25, hook=dict(window=10)))
    config = tiny_config(tmp_path / 'two', hook=dict(window=10))
    config.load_from = str(tmp_path / 'one' / 'iter_25.pth')
    train(config)
    assert rows_of(tmp_path / 'two')['iter'].min() == 9


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch):
    import smd_mmdet.records as records

    write = records.pq.write_table
    calls = iter(range(1000))

    def full_for_a_while(*args, **kwargs):
        if 2 <= next(calls) < 4:
            raise OSError(28, 'No space left on device')
        return write(*args, **kwargs)

    monkeypatch.setattr(records.pq, 'write_table', full_for_a_while)
    runner = train(tiny_config(tmp_path, hook=dict(window=10)))
    assert runner.iter == 60
    log = log_of(runner)
    assert 'records cannot be written, training goes on: [Errno 28]' in log
    assert sorted(set(rows_of(tmp_path)['iter'])) == [9, 19, 29, 39, 40, 50, 60]
