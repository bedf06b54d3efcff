"""Runs beside one another, and the scores of MMEngine's logs."""

import json
import shutil

import pytest
from rich.console import Console
from runs import NAMES, write_run, write_scalars

from smd_mmdet.cli import main
from smd_mmdet.records import RecordsError, read_metadata, read_records
from smd_mmdet.report.compare import compare
from smd_mmdet.report.scores import read_scores
from smd_mmdet.report.tables import render_comparison

VALIDATION = {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_l': -1.0, 'time': 0.1, 'step': 0}
LOG = """\
2026/11/25 10:00:00 - mmengine - INFO - {train}  lr: 5.0e-02  loss: 1.1
2026/11/25 10:00:01 - mmengine - INFO - Evaluating bbox...
2026/11/25 10:00:02 - mmengine - INFO - {val}    coco/bbox_mAP: 0.4970  \
coco/bbox_mAP_l: -1.0000  data_time: 0.0017  time: 0.0207
"""


def train(iteration):
    return {'loss': 1.0, 'iter': iteration, 'step': iteration}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    plain = write_run(folder / 'plain', window=50, norm=None)
    rescaled = write_run(folder / 'rescaled', window=50, norm=None, rescale=True)
    write_scalars(plain, 'a', [train(1500), VALIDATION])
    write_scalars(rescaled, 'a', [train(1500), VALIDATION | {'coco/bbox_mAP': 0.6}])
    return plain, rescaled


def test_rescaling_shows(runs, tmp_path):
    comparison = compare(runs, tmp_path)
    stage = comparison.stages[-1]
    assert stage.stage == 1
    ratio = stage.rows[0]
    assert ratio.what == 'median Δ/Δ*'
    assert ratio.values[0] < 0.8
    assert ratio.values[1] == pytest.approx(1, abs=0.1)
    assert ratio.differences == [0, ratio.values[1] - ratio.values[0]]
    assert stage.rows[2].values == [0, 3]
    assert comparison.scores[0].values == [0.5, 0.6]
    assert {row.what for row in comparison.layers} == set(NAMES)
    assert len(comparison.files) == 4
    assert all(path.startswith(str(tmp_path)) for path in comparison.files)


def test_it_is_json_and_a_table(runs, tmp_path, capsys):
    command = ['compare', *map(str, runs), '-o', str(tmp_path)]
    assert main([*command, '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run['name'] for run in found['runs']] == ['plain', 'rescaled']
    assert found['runs'][1]['scores']['coco/bbox_mAP']['best_iter'] == 1500
    assert main(command) == 0
    assert '0.6 (+0.1)' in capsys.readouterr().out


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    other = write_run(tmp_path / 'other' / 'plain', window=100, names=['[bold]x'])
    comparison = compare([runs[0], other], tmp_path / 'out')
    names = [run.name for run in comparison.runs]
    assert names[1] == 'other/plain'
    # No layer in common, no scores on one side; names are not markup.
    assert comparison.scores[0].values == [0.5, None]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_comparison(comparison))
    assert '[bold]x' in capture.get()


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    for command, message in (
        ([str(runs[0])], 'at least two'),
        ([str(runs[0]), str(runs[0])], 'given twice'),
        ([str(runs[0]), str(tmp_path / 'nowhere')], 'no such folder'),
    ):
        assert main(['compare', *command]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count('\n') == 1
    with pytest.raises(RecordsError):
        compare([tmp_path, runs[0]])


def test_scores_of_a_resumed_run(tmp_path):
    later = VALIDATION | {'coco/bbox_mAP': 0.7}
    write_scalars(tmp_path, '1', [train(50), VALIDATION, train(100), VALIDATION])
    write_scalars(tmp_path, '2', [train(100), later, train(150), later], broken=True)
    found = read_scores(tmp_path)
    assert found == {'coco/bbox_mAP': {50: 0.5, 100: 0.7, 150: 0.7}}


def test_scores_of_an_earlier_run_in_the_folder_are_not_this_runs(runs, tmp_path):
    work_dir = write_run(tmp_path / 'again', metadata={'started': '20260102_000000'})
    for stamp, iterations in (
        ('20260101_000000', (100, 200, 300, 400)),
        ('20260102_000000', (100,)),
        ('20260103_000000', (200,)),
    ):
        value = {'coco/bbox_mAP': 0.5 if len(iterations) > 1 else 0.1}
        lines = [each for i in iterations for each in (train(i), VALIDATION | value)]
        write_scalars(work_dir, stamp, lines)
    scores = compare([work_dir, runs[0]], tmp_path / 'out').runs[0].scores
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


def test_a_run_without_logs_has_no_scores(tmp_path):
    assert read_scores(tmp_path) == {}
