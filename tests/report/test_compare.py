"""Runs beside one another."""

import json

import pytest
from rich.console import Console
from runs import NAMES, VALIDATION, training, write_run, write_scalars

from smd_mmdet.cli import main
from smd_mmdet.records import RecordsError
from smd_mmdet.report.compare import compare
from smd_mmdet.report.tables import render_comparison


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    plain = write_run(folder / 'plain', window=50, norm=None)
    rescaled = write_run(folder / 'rescaled', window=50, norm=None, rescale=True)
    write_scalars(plain, 'a', [training(1500), VALIDATION])
    write_scalars(rescaled, 'a', [training(1500), VALIDATION | {'coco/bbox_mAP': 0.6}])
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
