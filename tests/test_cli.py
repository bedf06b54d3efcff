"""The `smd` command itself: its help, and the one line that bad input ends with."""

import pytest

import smd_mmdet
from smd_mmdet.cli import EXTRAS, main


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
