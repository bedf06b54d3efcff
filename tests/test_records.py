"""The store: whole parts only, nothing lost, nothing doubled."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smd_mmdet.records import MERGE_AT, RecordsError, RecordWriter, read_records


def rows(iteration, layers=('a', 'b'), value=0.5):
    count = len(layers)
    shapes = np.empty(count, dtype=object)
    shapes[:] = [(3, 3)] * count
    return {
        'iter': np.full(count, iteration),
        'count': np.full(count, 10),
        'layer': np.array(layers, dtype=object),
        'shape': shapes,
        'lr': np.full(count, 0.1),
        'stage': np.zeros(count, dtype=np.int64),
        'weight_norm_mean': np.full(count, value),
    }


def iterations(folder):
    """As any other tool would read them: every Parquet file, with pyarrow alone."""
    table = pq.ParquetDataset(folder / 'smd').read()
    return sorted(table['iter'].to_pylist())


def test_rows_come_back_as_written(tmp_path):
    writer = RecordWriter(tmp_path, {'config': 'x = 1'})
    writer.append(rows(10, value=np.nan))
    writer.append(rows(20, value=2.5))
    records = read_records(tmp_path)
    assert records.metadata == {'schema_version': 1, 'config': 'x = 1'}
    assert records.layers() == ['a', 'b']
    assert records.table['shape'].to_pylist() == [[3, 3]] * 4
    layer = dict(records.by_layer())['b']
    assert layer['iter'].tolist() == [10, 20]
    np.testing.assert_array_equal(layer['weight_norm_mean'], [np.nan, 2.5])


def test_what_an_earlier_version_did_not_measure_is_not_known(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.append(rows(10))  # without the columns of clipping
    layer = dict(read_records(tmp_path).by_layer())['a']
    np.testing.assert_array_equal(layer['clipped_share'], [np.nan])
    # A run of that version is resumed by this one.
    writer.append(rows(20) | {'clipped_share': np.array([0.5, 0.25])})
    layer = dict(read_records(tmp_path).by_layer())['b']
    np.testing.assert_array_equal(layer['clipped_share'], [np.nan, 0.25])
    np.testing.assert_array_equal(layer['clip_coefficient_mean'], [np.nan] * 2)


@settings(max_examples=12, deadline=None)
@given(
    windows=st.integers(1, 3 * MERGE_AT + 5),
    cut=st.integers(1, 3 * MERGE_AT + 6),
)
def test_merging_and_resuming_keep_exactly_the_rows_before(
    tmp_path_factory, windows, cut
):
    folder = tmp_path_factory.mktemp('run')
    writer = RecordWriter(folder)
    for window in range(1, windows + 1):
        writer.append(rows(window, layers=('a',)))
    assert iterations(folder) == list(range(1, windows + 1))
    assert len(list((folder / 'smd').iterdir())) < MERGE_AT + 4
    writer = RecordWriter(folder, resume_from=cut)
    for window in range(cut, cut + 3):
        writer.append(rows(window, layers=('a',)))
    kept = [window for window in range(1, windows + 1) if window < cut]
    assert iterations(folder) == [*kept, cut, cut + 1, cut + 2]


def test_a_merge_cut_short_doubles_nothing(tmp_path):
    writer = RecordWriter(tmp_path)
    for window in range(1, 6):
        writer.append(rows(window, layers=('a',)))
    small = {p: p.read_bytes() for p in (tmp_path / 'smd').iterdir()}
    writer.merge()
    for path, content in small.items():  # as if killed before they were removed
        path.write_bytes(content)
    assert len(list((tmp_path / 'smd').iterdir())) == 6
    table = read_records(tmp_path).table
    assert table['iter'].to_pylist() == [1, 2, 3, 4, 5]
    RecordWriter(tmp_path, resume_from=100)
    assert iterations(tmp_path) == [1, 2, 3, 4, 5]


def test_a_new_run_sets_the_earlier_one_aside(tmp_path):
    RecordWriter(tmp_path).append(rows(10))
    writer = RecordWriter(tmp_path)
    writer.append(rows(99))
    assert read_records(tmp_path).table['iter'].to_pylist() == [99, 99]
    aside = list(writer.set_aside.glob('*.parquet'))
    assert [pq.read_table(path)['iter'][0].as_py() for path in aside] == [10]


def test_a_failed_write_leaves_nothing_half_written(tmp_path, monkeypatch):
    writer = RecordWriter(tmp_path)
    writer.append(rows(10))

    def no_space(table, file, **kwargs):
        file.write(b'PAR1 half a part')
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr('smd_mmdet.records.pq.write_table', no_space)
        with pytest.raises(OSError, match='No space'):
            writer.append(rows(20))
    assert len(list((tmp_path / 'smd').iterdir())) == 1
    writer.append(rows(20))
    assert iterations(tmp_path) == [10, 10, 20, 20]


KILLED = """
    import sys, numpy as np
    sys.path[:0] = {path!r}
    from smd_mmdet.records import RecordWriter
    from test_records import rows
    writer = RecordWriter({folder!r}, resume_from={resume})
    window = {resume}
    while True:
        writer.append(rows(window, layers=('a',)))
        print(window, flush=True)
        window += 1
"""


def test_killed_writers_leave_readable_records(tmp_path):
    """kill -9 at odd moments, merges among them; each time the run resumes."""
    resume = 1
    tests = os.path.dirname(__file__)
    for windows in (5, MERGE_AT + 20, 40):
        code = textwrap.dedent(KILLED).format(
            path=[os.path.dirname(tests), tests], folder=str(tmp_path), resume=resume
        )
        process = subprocess.Popen(
            [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True
        )
        for _ in range(windows):
            last = int(process.stdout.readline())
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0].split()
        last = int(printed[-1]) if printed else last
        got = read_records(tmp_path).table['iter'].to_pylist()
        # The part under way when the kill came may have been completed.
        assert got in (list(range(1, last + 1)), list(range(1, last + 2)))
        resume = max(last - 3, 1)
    assert resume > MERGE_AT


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda f: f.write_bytes(b'not parquet'), 'not readable as Parquet'),
        (lambda f: f.write_bytes(f.read_bytes()[:-30]), 'not readable as Parquet'),
        (lambda f: f.write_bytes(b''), 'not readable as Parquet'),
        (
            lambda f: pq.write_table(pa.table({'x': [1]}), f),
            'not a record of smd_mmdet',
        ),
        (
            lambda f: pq.write_table(
                pq.read_table(f).replace_schema_metadata(
                    {'smd_mmdet': '{"schema_version": 99}'}
                ),
                f,
            ),
            'schema version 99',
        ),
    ],
    ids=['text', 'truncated', 'empty', 'foreign', 'other version'],
)
def test_bad_parts_are_named(tmp_path, damage, message):
    RecordWriter(tmp_path).append(rows(10))
    [part] = (tmp_path / 'smd').iterdir()
    damage(part)
    with pytest.raises(RecordsError, match=message) as caught:
        read_records(tmp_path)
    assert part.name in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_damaged_part_can_be_left_out_and_is_told(tmp_path):
    writer = RecordWriter(tmp_path)
    for window in (10, 20, 30, 40):
        writer.append(rows(window, layers=('a',)))
    parts = sorted((tmp_path / 'smd').iterdir())
    for part in (parts[0], parts[2]):
        part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(RecordsError, match='not readable'):
        read_records(tmp_path)
    records = read_records(tmp_path, skip_damaged=True)
    assert records.table['iter'].to_pylist() == [20, 40]
    first, other = records.left_out
    assert parts[0].name in first and 'iterations up to 10 are missing' in first
    assert parts[2].name in other and 'iterations 21 to 30 are missing' in other
    for part in parts:
        part.write_bytes(b'')
    with pytest.raises(RecordsError, match='none of its 4 parts can be read'):
        read_records(tmp_path, skip_damaged=True)


def test_small_parts_stand_in_for_a_damaged_wide_one(tmp_path):
    writer = RecordWriter(tmp_path)
    for window in (10, 20, 30):
        writer.append(rows(window, layers=('a',)))
    small = {p: p.read_bytes() for p in (tmp_path / 'smd').iterdir()}
    writer.merge()
    [wide] = (tmp_path / 'smd').iterdir()
    wide.write_bytes(b'half')
    for path in sorted(small)[1:]:  # the merge was cut short once one was removed
        path.write_bytes(small[path])
    records = read_records(tmp_path, skip_damaged=True)
    assert records.table['iter'].to_pylist() == [20, 30]
    assert 'stand in for it, from iteration 20 to 30' in records.left_out[0]


def test_reading_many_parts_tells_how_far_it_is(tmp_path):
    for window in range(1, 40):  # a writer each, so that nothing is merged
        RecordWriter(tmp_path, resume_from=window).append(rows(window))
    told = []

    def progress(items, total, description):
        for item in items:
            told.append(description)
            yield item
        assert len(told) == total

    records = read_records(tmp_path, progress=progress)
    assert told == ['reading records'] * 39
    assert records.table['iter'].to_pylist() == np.repeat(range(1, 40), 2).tolist()


def test_missing_records_are_named(tmp_path):
    with pytest.raises(RecordsError, match='no such folder'):
        read_records(tmp_path / 'nowhere')
    with pytest.raises(RecordsError, match='trained with SMDHook'):
        read_records(tmp_path)
    RecordWriter(tmp_path)
    with pytest.raises(RecordsError, match='no window is complete'):
        read_records(tmp_path)
