"""The files that `smd report` writes."""

import pytest
from runs import NAMES, write_run

from smd_mmdet.cli import main
from smd_mmdet.records import RecordsError
from smd_mmdet.report import write_files, write_report
from smd_mmdet.report.figures import FIGURES


def test_report_is_written(tmp_path, capsys):
    work_dir = write_run(tmp_path / 'run')
    assert main(['report', str(work_dir)]) == 0
    printed = capsys.readouterr().out.split()
    assert printed[0].endswith('run/report/report.html')
    # Nothing was clipped, and no angle was set.
    drawn = [name for name in FIGURES if name not in ('clipping', 'control')]
    assert sorted(p.name for p in (work_dir / 'report').iterdir()) == sorted(
        ['report.html', *(f'{name}.png' for name in drawn)]
    )
    before = (work_dir / 'report' / 'cosine.png').read_bytes()
    out = tmp_path / 'deep' / 'out'
    command = ['report', str(work_dir), '-o', str(out), '--svg', '--layer', NAMES[2]]
    assert main(command) == 0
    assert (out / 'cosine.svg').read_text('utf-8').rstrip().endswith('</svg>')
    assert (out / 'cosine.png').read_bytes() == before


@pytest.mark.parametrize('case', ['no run', 'no records', 'out is a file', 'layer'])
def test_bad_input_is_one_line(tmp_path, capsys, case):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    work_dir = write_run(tmp_path / 'run') if case[0] in 'ol' else tmp_path / 'empty'
    command = {
        'no run': ['report', str(tmp_path / 'nowhere')],
        'no records': ['report', str(work_dir)],
        'out is a file': ['report', str(work_dir), '-o', str(tmp_path / 'file')],
        'layer': ['report', str(work_dir), '--layer', 'nonsense'],
    }[case]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith('smd report: error: ')
    assert told.count('\n') == 1
    assert not (tmp_path / 'run' / 'report').exists()


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    write_files(tmp_path, {'a': b'old'})

    def fail(self, content):
        with open(self, 'wb') as file:
            file.write(content[:1])
        raise OSError('disk full')

    monkeypatch.setattr('pathlib.Path.write_bytes', fail)
    with pytest.raises(OSError, match='disk full'):
        write_files(tmp_path, {'a': b'new'})
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [('a', b'old')]


def test_damaged_records_are_named(tmp_path):
    work_dir = write_run(tmp_path / 'run')
    part = next((work_dir / 'smd').iterdir())
    part.write_bytes(b'nonsense')
    with pytest.raises(RecordsError, match=part.name):
        write_report(work_dir)
