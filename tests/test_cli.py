"""The `smd` command itself: its help, and the one line that bad input ends with."""

import json
import subprocess
import sys

import pytest
from processes import environment
from runs import write_run
from simulation import records_of, small_walk

import smd_mmdet
from smd_mmdet.cli import EXTRAS, main
from smd_mmdet.records import RecordWriter


def refused(capsys, *words):
    """The single line that a command ends with, and what it printed before."""
    try:
        code = main(words)
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ''
    assert captured.err.startswith('smd') and captured.err.count('\n') == 1
    return captured.err


@pytest.mark.parametrize(
    'words',
    [
        ('audit', ''),
        ('plan', ''),
        ('plan', 'config.py', '--work-dir', ''),
        ('transfer', 'run', 'config.py', '-o', ''),
        ('check', ''),
        ('check', ' '),
        ('report', 'run', '-o', ''),
        ('compare', 'run', ''),
        ('compare', 'a', 'b', '-o', ''),
        ('shapes', '', '--train', '1', '--val', '1'),
    ],
)
def test_an_empty_path_is_refused(capsys, words):
    assert 'the path is empty' in refused(capsys, *words)


def test_what_is_no_folder_of_a_run_is_named(capsys, tmp_path):
    (tmp_path / 'file').touch()
    for command in ('check', 'report'):
        assert 'it is a file' in refused(capsys, command, str(tmp_path / 'file'))
    assert 'no such folder' in refused(capsys, 'check', str(tmp_path / 'none'))
    (tmp_path / 'smd').mkdir()
    assert 'no records yet' in refused(capsys, 'check', str(tmp_path))
    (tmp_path / 'smd' / 'other.parquet').touch()
    line = refused(capsys, 'check', str(tmp_path))
    assert 'other.parquet' in line and '0000000001-0000000050.parquet' in line


def test_a_wrong_option_leads_to_the_help_of_its_command(capsys):
    line = refused(capsys, 'check', 'run', '--nosuch')
    assert '--nosuch' in line and '(see smd check --help)' in line
    assert '(see smd --help)' in refused(capsys, '--nosuch')


def test_errors_say_what_they_name_without_control_characters(capsys):
    for words in (('check', 'run\x1b[2J\u202e'), ('check', 'run', '--\x1b[2J\x07\n')):
        line = refused(capsys, *words)
        assert '\\x1b[2J' in line and line[:-1].isprintable()


def test_version_and_help(capsys):
    for option in ('--version', '--help'):
        with pytest.raises(SystemExit, match='0'):
            main([option])
    printed = capsys.readouterr().out
    assert printed.startswith(f'smd {smd_mmdet.__version__}\n')


def test_every_extra_of_the_package_names_what_it_holds():
    """Each is a module's name and what pip can fetch: this package is not published."""
    assert {'plotly', 'matplotlib', 'pycocotools', 'mmdet'} <= set(EXTRAS)
    assert not any('smd_mmdet' in wanted for wanted in EXTRAS.values())


@pytest.fixture(scope='module')
def failing_run(tmp_path_factory):
    """A run of which `smd check` says that the theory fails: exit code 1."""
    folder = tmp_path_factory.mktemp('failing')
    records = records_of(small_walk(steps=2000, radial=0.3))
    columns = {n: records.table[n].to_pylist() for n in records.table.column_names}
    RecordWriter(folder, records.metadata).append(columns)
    return folder


def shell(redirection, run, **variables):
    """Exit code and stderr of `smd check`, with its streams set up by a shell."""
    command = f'{sys.executable} -m smd_mmdet.cli check {run} {redirection}'
    done = subprocess.run(
        ['bash', '-c', f'{command}\nexit ${{PIPESTATUS[0]}}'],
        env=environment(**variables),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ('redirection', 'code', 'said'),
    [
        ('>&-', 2, 'standard output is closed'),
        ('> /dev/full', 2, 'standard output: No space left on device'),
        ('| true', 1, ''),
        ('2>&-', 1, ''),
        ('--nosuch 2> /dev/full', 2, ''),
    ],
)
def test_a_stream_that_takes_nothing_is_no_verdict(
    failing_run, redirection, code, said
):
    got, _, stderr = shell(redirection, failing_run)
    assert got == code
    assert said in stderr and stderr.count('\n') == bool(said)


def test_letters_that_a_terminal_lacks_are_replaced(failing_run):
    ascii_only = dict(PYTHONIOENCODING='ascii')
    code, plain, stderr = shell('', failing_run, **ascii_only)
    assert (code, stderr) == (1, '')
    _, whole, _ = shell('', failing_run)
    assert plain.isascii() and 'D/D*' in plain
    # What is in columns is still below one another.
    assert len(plain.splitlines()) == len(whole.splitlines())
    assert len(plain.splitlines()[3]) == len(whole.splitlines()[3])


@pytest.mark.parametrize('columns', ['', '0', '1', '60', '100000', 'wide'])
def test_columns_of_any_width_are_printed(failing_run, monkeypatch, capsys, columns):
    monkeypatch.setenv('COLUMNS', columns)
    assert main(['check', str(failing_run)]) == 1
    longest = max(map(len, capsys.readouterr().out.splitlines()))
    assert 30 <= longest <= max(120, int(columns) if columns.isdigit() else 0)


def test_a_damaged_part_is_gone_on_without_when_asked(tmp_path, capsys, monkeypatch):
    other, run = write_run(tmp_path / 'other'), write_run(tmp_path / 'run')
    damaged = run / 'smd' / '0000001550-0000001600.parquet'
    damaged.touch()
    monkeypatch.setattr('smd_mmdet.report.overlay.draw_overlays', lambda *_: {})
    monkeypatch.setattr('smd_mmdet.report.figures.draw', lambda *_: {})
    for command in (['check'], ['report'], ['compare', str(other)]):
        assert '--skip-damaged' in refused(capsys, *command, str(run))
        assert main([*command, str(run), '--skip-damaged']) == 0
        told = capsys.readouterr().err
        assert damaged.name in told and told.count('\n') == 1
        assert 'the iterations 1,501 to 1,600 are missing' in told


def test_the_whole_run_is_judged_also_where_one_layer_is_shown(failing_run, capsys):
    chosen = ['--layer', 'layer1', '--stage', '0']
    assert main(['check', str(failing_run), '--json', *chosen]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [layer['layer'] for layer in found['layers']] == ['layer1']
    assert main(['check', str(failing_run), *chosen]) == 1
    told = capsys.readouterr().out
    assert 'fails in 2 layers' in told and 'lemma_1' in told
    assert 'there: stage 0' in refused(
        capsys, 'check', str(failing_run), '--stage', '3'
    )
    assert "'warm-up'" in refused(capsys, 'check', 'run', '--stage', 'last')


def test_an_interrupted_command_ends_with_one_line(tmp_path, capsys, monkeypatch):
    """Also the drawing of the quickstart's data, of which nothing is left then."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('smd_mmdet.datasets.shapes.draw_scene', interrupted)
    assert main(['shapes', str(tmp_path / 'data'), '--train', '1', '--val', '1']) == 130
    assert capsys.readouterr().err.endswith('smd shapes: interrupted\n')
    assert list(tmp_path.iterdir()) == []
