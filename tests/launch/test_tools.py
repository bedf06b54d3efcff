"""train.py and test.py, from the first iteration to the end, in one process and two."""

import pickle
import re
import signal

import pytest
import torch
from launching import ROOT, bash, finish, start
from mmengine.logging import HistoryBuffer
from versions import SAFE, load

from smd_mmdet.config import compat


def test_train_resume_after_kill_and_test(tiny):
    config = tiny / 'config.py'
    work_dir = tiny / 'killed'
    whole = start('train.py', config, '--work-dir', tiny / 'whole')
    killed = start('train.py', config, '--work-dir', work_dir, KILL_AT='10')
    status, output = finish(whole)
    assert status == 0, output
    assert finish(killed)[0] == -signal.SIGKILL
    # What last_checkpoint notes is where the checkpoint was before.
    work_dir = work_dir.rename(tiny / 'moved')
    resumed = start('train.py', config, '--work-dir', work_dir, '--resume')
    tested = start(
        'test.py', config, tiny / 'whole/iter_12.pth', '--work-dir', tiny / 'test'
    )
    status, output = finish(resumed)
    assert status == 0, output
    assert 'resumed epoch: 0, iter: 8' in output
    assert f'going on from its own {work_dir}/iter_8.pth' in output
    status, output = finish(tested)
    assert status == 0, output
    assert re.search(r'mean: -?\d', output)

    expected = torch.load(tiny / 'whole' / 'rank0.pt')
    actual = torch.load(work_dir / 'rank0.pt')
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name

    # The checkpoint holds what torch refuses by default, or this tests nothing.
    checkpoint = work_dir / 'iter_12.pth'
    history = load(checkpoint)['message_hub']['log_scalars']
    assert isinstance(history['train/loss'], HistoryBuffer)
    if not SAFE:
        return
    with torch.serialization.safe_globals([]):
        torch.serialization.clear_safe_globals()
        try:
            with pytest.raises(pickle.UnpicklingError):
                torch.load(checkpoint, weights_only=True)
        finally:
            compat.allow_mmengine_checkpoints()


def test_two_cpu_processes_end_with_the_same_weights(tiny):
    done = bash(
        ROOT / 'tools/dist_train.sh', tiny / 'config.py', 2,
        '--work-dir', tiny / 'dist', '--cfg-options', 'train_cfg.max_iters=6',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tiny / 'dist' / f'rank{i}.pt') for i in range(2)]
    for name, value in ranks[0].items():
        # Running statistics belong to each process, as on GPUs.
        if 'running' not in name:
            assert torch.equal(ranks[1][name], value), name

    tested = bash(
        ROOT / 'tools/dist_test.sh', tiny / 'config.py', tiny / 'dist/iter_6.pth', 2,
        '--work-dir', tiny / 'test',
    )  # fmt: skip
    assert tested.returncode == 0, tested.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without GPUs')
def test_wrong_setting_in_two_processes_is_told_once(tiny):
    done = bash(
        ROOT / 'tools/dist_train.sh', tiny / 'config.py', 2,
        '--work-dir', tiny / 'w', '--cfg-options', 'model.norm_cfg.type=SyncBN',
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count('error: SyncBN') == 1
    assert 'Traceback' not in done.stderr
