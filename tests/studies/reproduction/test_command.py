"""The reproduction's command line, and the script that starts it."""

import subprocess
from pathlib import Path

import pytest

from studies.reproduction.__main__ import main
from studies.reproduction.experiments import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ('arguments', 'name'),
    [
        (['--jobs', '0'], '--jobs'),
        (['--jobs', 'many'], '--jobs'),
        (['--only', 'nothing'], '--only'),
        (['--out', 'page.txt'], '--out'),
        (['--unknown'], '--unknown'),
    ],
)
def test_a_bad_argument_is_one_line(arguments, name, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.startswith('error: ') and name in error and error.count('\n') == 1


def test_the_list_tells_what_is_done(tmp_path, capsys):
    folder = tmp_path / f'{EXPERIMENTS[0].name}-seed0'
    folder.mkdir()
    (folder / 'finished').touch()
    only = ['--only', EXPERIMENTS[0].name, '--work-dir', str(tmp_path)]
    assert main(['--list', *only]) == 0
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ['finished'] + ['not'] * (EXPERIMENTS[0].seeds - 1)


def test_a_finished_run_without_records_is_one_line(tmp_path, capsys):
    folder = tmp_path / f'{EXPERIMENTS[0].name}-seed0'
    folder.mkdir()
    (folder / 'finished').touch()
    out = tmp_path / 'page.md'
    arguments = ['--page', '--work-dir', str(tmp_path), '--out', str(out)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    assert str(folder) in error
    assert not out.exists()


def test_the_script_is_bash_and_hands_its_arguments_on():
    script = ROOT / 'tools/reproduce.sh'
    subprocess.run(['bash', '-n', script], check=True)
    assert '-m studies.reproduction "$@"' in script.read_text()
