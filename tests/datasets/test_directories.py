"""Where a data set of shapes may be written, and what is refused."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from shapes_files import SEED, TRAIN, VAL, child, digests, write_folders

from smd_mmdet.datasets import write_shapes


def test_a_complete_set_is_left_alone(data, capsys):
    before = {file: file.stat().st_mtime_ns for file in data.rglob('*')}
    write_shapes(data, TRAIN, VAL, seed=SEED)
    assert {file: file.stat().st_mtime_ns for file in data.rglob('*')} == before
    assert capsys.readouterr().out.count('\n') == 1


def test_new_empty_nested_and_linked_directories(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'empty')
    write_shapes(tmp_path / 'link', 1, 1)
    write_shapes(str(tmp_path / 'a' / 'b'), 1, 1)
    assert digests(tmp_path / 'empty') == digests(tmp_path / 'a' / 'b')
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a', 'empty', 'link']
    ordinary = tmp_path / 'ordinary'
    ordinary.mkdir()
    assert (tmp_path / 'empty').stat().st_mode == ordinary.stat().st_mode


def other_file(directory: Path) -> None:
    directory.mkdir()
    (directory / 'thesis.txt').write_text('ten years')


def plain_file(directory: Path) -> None:
    directory.write_text('ten years')


def other_parameters(directory: Path) -> None:
    write_shapes(directory, 2, 1, seed=1)


def missing_picture(directory: Path) -> None:
    write_shapes(directory, 2, 1)
    next((directory / 'train').iterdir()).unlink()


def empty_picture(directory: Path) -> None:
    write_shapes(directory, 2, 1)
    next((directory / 'val').iterdir()).write_bytes(b'')


def cut_annotations(directory: Path) -> None:
    write_shapes(directory, 2, 1)
    file = directory / 'annotations' / 'instances_val.json'
    file.write_bytes(file.read_bytes()[:-100])


def foreign_annotations(directory: Path) -> None:
    (directory / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        file = directory / 'annotations' / f'instances_{split}.json'
        file.write_text('{"info": {}, "images": []}')


@pytest.mark.parametrize(
    'fill',
    [
        other_file,
        plain_file,
        other_parameters,
        missing_picture,
        empty_picture,
        cut_annotations,
        foreign_annotations,
    ],
)
def test_anything_else_is_refused_and_kept(tmp_path, fill):
    directory = tmp_path / 'data'
    fill(directory)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=r'\Adirectory [^\n]+\Z'):
        write_shapes(directory, 2, 1)
    assert digests(tmp_path) == before


@pytest.mark.parametrize('exists', [False, True])
def test_an_interrupted_call_leaves_nothing(tmp_path, exists):
    directory = tmp_path / 'data'
    if exists:
        directory.mkdir()

    def interrupt(items, total, description):
        assert total in (5, 2)
        yield from list(items)[: total - 1]
        if description.startswith('val'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(directory, 5, 2, progress=interrupt)
    assert list(tmp_path.rglob('*')) == [directory] * exists


@pytest.mark.skipif(os.name != 'posix', reason='sends a signal')
def test_a_killed_call_leaves_nothing_under_the_name(tmp_path):
    code = """
import os, sys
from smd_mmdet.datasets import write_shapes

def die(items, total, description):
    yield next(iter(items))
    os.kill(os.getpid(), 9)

write_shapes(sys.argv[1], 3, 1, progress=die)
"""
    assert child(code, tmp_path / 'data') == -signal.SIGKILL
    assert not (tmp_path / 'data').exists()
    write_shapes(tmp_path / 'data', 3, 1)
    assert len(digests(tmp_path / 'data')) == 6


def test_the_two_kinds_are_not_mixed(tmp_path):
    write_shapes(tmp_path / 'scenes', 2, 1)
    write_folders(tmp_path / 'folders', 2, 1)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match='holds no shapes data set for classification'):
        write_folders(tmp_path / 'scenes', 2, 1)
    with pytest.raises(ValueError, match='holds no shapes data set for detection'):
        write_shapes(tmp_path / 'folders', 2, 1, size=32)
    write_folders(tmp_path / 'folders', 2, 1)
    assert digests(tmp_path) == before


def test_a_missing_picture_of_a_class_is_noticed(tmp_path):
    write_folders(tmp_path / 'data', 5, 5)
    next((tmp_path / 'data' / 'val' / 'star').iterdir()).unlink()
    with pytest.raises(ValueError, match='val pictures missing'):
        write_folders(tmp_path / 'data', 5, 5)


def test_progress_sees_every_picture(tmp_path):
    calls = []

    def progress(items, total, description):
        items = list(items)
        calls.append((len(items), total, description))
        return items

    write_shapes(tmp_path / 'data', 3, 2, progress=progress)
    assert [call[:2] for call in calls] == [(3, 3), (2, 2)]
    assert calls[0][2] != calls[1][2]


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('train', 0),
        ('train', -5),
        ('train', 2.0),
        ('train', True),
        ('train', '3'),
        ('val', 0),
        ('val', None),
        ('val', math.nan),
        ('size', 31),
        ('size', 2049),
        ('size', 64.5),
        ('size', (64, 64)),
        ('seed', -1),
        ('seed', None),
        ('seed', 0.5),
        ('kind', 'segmentation'),
        ('kind', None),
        ('directory', None),
        ('directory', 7),
        ('directory', ''),
        ('directory', 'a\0b'),
    ],
)
def test_bad_values_are_named(tmp_path, name, value):
    arguments = {'directory': tmp_path / 'data', 'train': 2, 'val': 1, name: value}
    with pytest.raises(ValueError, match=rf'\A{name} must be [^\n]+\Z'):
        write_shapes(**arguments)
    assert not list(tmp_path.iterdir())


def test_numpy_integers_are_integers(tmp_path):
    write_shapes(tmp_path / 'data', np.int64(1), np.int32(1), np.uint8(64), np.uint8(2))
    write_shapes(tmp_path / 'data', 1, 1, 64, 2)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(
        OSError, match=r'\Adirectory [^\n]+ cannot be written: [^\n]+\Z'
    ):
        write_shapes(tmp_path / 'file' / 'data', 1, 1)


@pytest.mark.skipif(
    os.name != 'posix' or os.geteuid() == 0, reason='needs a user with limits'
)
def test_a_read_only_parent_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r'directory [^\n]+ cannot be written'):
            write_shapes(tmp_path / 'data', 1, 1)
    finally:
        tmp_path.chmod(0o700)
