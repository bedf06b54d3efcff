"""Validation scores, from the logs that MMEngine writes."""

import shutil

import pytest
from runs import VALIDATION, training, validating_config, write_run, write_scalars

from smd_mmdet.records import read_metadata, read_records
from smd_mmdet.report.compare import compare
from smd_mmdet.report.scores import read_losses, read_scores

LOG = """\
2026/11/25 10:00:00 - mmengine - INFO - {train}  lr: 5.0e-02  loss: 1.1
2026/11/25 10:00:01 - mmengine - INFO - Evaluating bbox...
2026/11/25 10:00:02 - mmengine - INFO - {val}    coco/bbox_mAP: 0.4970  \
coco/bbox_mAP_l: -1.0000  data_time: 0.0017  time: 0.0207
"""


def test_scores_of_a_resumed_run(tmp_path):
    later = VALIDATION | {'coco/bbox_mAP': 0.7}
    write_scalars(tmp_path, '1', [training(50), VALIDATION, training(100), VALIDATION])
    write_scalars(
        tmp_path, '2', [training(100), later, training(150), later], broken=True
    )
    found = read_scores(tmp_path)
    assert found == {'coco/bbox_mAP': {50: 0.5, 100: 0.7, 150: 0.7}}


def test_scores_of_an_earlier_run_in_the_folder_are_not_this_runs(tmp_path):
    work_dir = write_run(tmp_path / 'again', metadata={'started': '20260102_000000'})
    for stamp, iterations in (
        ('20260101_000000', (100, 200, 300, 400)),
        ('20260102_000000', (100,)),
        ('20260103_000000', (200,)),
    ):
        value = {'coco/bbox_mAP': 0.5 if len(iterations) > 1 else 0.1}
        lines = [each for i in iterations for each in (training(i), VALIDATION | value)]
        write_scalars(work_dir, stamp, lines)
    other = write_run(tmp_path / 'other')
    scores = compare([work_dir, other], tmp_path / 'out').runs[0].scores
    assert scores['coco/bbox_mAP']['last_iter'] == 200
    assert scores['coco/bbox_mAP']['last'] == scores['coco/bbox_mAP']['best'] == 0.1
    # Records that do not tell: as many scores as there are.
    assert read_scores(work_dir)['coco/bbox_mAP'][400] == 0.5


def test_records_keep_when_their_run_began(tmp_path):
    Runner = pytest.importorskip('mmengine.runner').Runner
    from tiny import tiny_config

    def train(stamp, iterations, **changes):
        hook = dict(window=5, verify=False)
        config = tiny_config(tmp_path, iterations, hook, **changes)
        config.default_hooks.checkpoint.interval = 10
        runner = Runner.from_cfg(config)
        runner._timestamp = stamp
        runner.train()
        return read_metadata(tmp_path)['started']

    resumed = dict(resume=True, load_from=str(tmp_path / 'iter_10.pth'))
    assert train('20260101_000000', 10) == '20260101_000000'
    assert train('20260102_000000', 10) == '20260102_000000'
    assert train('20260103_000000', 20, **resumed) == '20260102_000000'
    assert read_records(tmp_path).metadata['started'] == '20260102_000000'
    # Where the records are lost, nobody knows.
    shutil.rmtree(tmp_path / 'smd')
    assert train('20260104_000000', 20, **resumed) is None


@pytest.mark.parametrize(
    ('train', 'val', 'iteration'),
    [
        ('Iter(train) [1800/1800]', 'Iter(val) [60/60]', 1800),
        ('Epoch(train)  [3][ 40/100]', 'Epoch(val) [3][5/5]', 240),
    ],
)
def test_scores_from_the_text_log(tmp_path, train, val, iteration):
    folder = tmp_path / 'a'
    folder.mkdir()
    (folder / 'a.log').write_text(LOG.format(train=train, val=val))
    assert read_scores(tmp_path) == {'coco/bbox_mAP': {iteration: 0.497}}


@pytest.mark.parametrize('backend', ['LocalVisBackend', 'TensorboardVisBackend'])
def test_scores_are_those_of_the_run_whatever_its_backends(tmp_path, backend):
    """Without LocalVisBackend MMEngine writes the scores to its text log alone."""
    Runner = pytest.importorskip('mmengine.runner').Runner
    pytest.importorskip('tensorboard')

    Runner.from_cfg(validating_config(tmp_path, backend=backend)).train()
    written = list(tmp_path.glob('*/vis_data/scalars.json'))
    assert bool(written) == (backend == 'LocalVisBackend')
    assert read_scores(tmp_path) == {'coco/bbox_mAP': {30: 0.25, 40: 0.25}}


def test_losses_are_read_across_resumes(tmp_path):
    text = 'mmengine - INFO - {}  lr: 5.0e-02  loss: {}  loss_cls: 0.7\n'
    for stamp, told in {
        '1': [('Iter(train) [ 100/1500]', '9.0')],
        '2': [('Iter(train) [ 100/1500]', '1.9'), ('Iter(train) [ 200/1500]', 'nan')],
        '3': [('Epoch(train)  [3][ 40/100]', '1.5e+00')],
    }.items():
        (tmp_path / stamp).mkdir()
        lines = [text.format(*each) for each in told]
        (tmp_path / stamp / f'{stamp}.log').write_text(''.join(lines))
    assert read_losses(tmp_path, started='2') == {100: 1.9, 240: 1.5}
    assert read_losses(tmp_path)[100] == 1.9


def test_a_run_without_logs_has_no_scores(tmp_path):
    assert read_scores(tmp_path) == {}
    assert read_losses(tmp_path) == {}
