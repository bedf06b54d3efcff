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
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processes import ROOT
from runs import write_run

from smd_mmdet.records import (
    MERGE_AT,
    RecordsError,
    RecordWriter,
    read_records,
    to_table,
)


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


def quantities(number, seed=0):
    """Rows of a layer whose mean, spread and extremes use all bits of a float64."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-200, 200, number)
    values = {f'q_{kind}': size * rng.normal(size=number) for kind in STATISTICS}
    columns = {name: np.repeat(v, number) for name, v in rows(1, ('a',)).items()}
    return columns | values | {'iter': np.arange(1, number + 1)}


STATISTICS = ('mean', 'var', 'min', 'max')


def test_means_are_kept_to_the_bit_and_extremes_are_never_exceeded(tmp_path):
    truth = quantities(500)
    writer = RecordWriter(tmp_path)
    for part in (slice(0, 200), slice(200, 500)):
        writer.append({name: values[part] for name, values in truth.items()})
    writer.merge()  # rounds nothing once more
    kept = dict(read_records(tmp_path).by_layer())['a']
    assert np.array_equal(kept['q_mean'], truth['q_mean'])
    assert (kept['q_min'] < truth['q_min']).all()
    assert (kept['q_max'] > truth['q_max']).all()
    for name in ('q_var', 'q_min', 'q_max'):
        error = np.abs(kept[name] / truth[name] - 1)
        assert error.max() < 2.0 ** (-24 if name == 'q_var' else -23)
        # As many bits as a float32 has, whatever the exponent.
        fraction = np.frexp(kept[name])[0]
        assert np.array_equal(fraction, fraction.astype(np.float32))


@given(value=st.floats(), kind=st.sampled_from(STATISTICS))
@example(value=1.7976931348623157e308, kind='max')
@example(value=5e-324, kind='var')
@settings(max_examples=30, deadline=None)
def test_no_number_becomes_another(tmp_path_factory, value, kind):
    folder = tmp_path_factory.mktemp('run')
    RecordWriter(folder).append(rows(1, ('a',)) | {f'q_{kind}': np.array([value])})
    kept = read_records(folder).table[f'q_{kind}'][0].as_py()
    if not np.isfinite(value) or value == 0:
        np.testing.assert_equal(kept, value)
    else:
        assert np.isfinite(kept)
        assert kept == pytest.approx(value, rel=2.0**-23)


def test_records_are_half_as_large_as_they_were(tmp_path):
    truth = quantities(2000)
    RecordWriter(tmp_path).append(truth)
    size = sum(path.stat().st_size for path in (tmp_path / 'smd').iterdir())
    file = pa.BufferOutputStream()
    pq.write_table(to_table(truth), file, compression='zstd')
    assert size < 0.7 * file.getvalue().size


def test_records_of_version_0_1_are_read_and_go_on(tmp_path):
    truth = quantities(300)
    facts = {'smd_mmdet': '{"schema_version": 1, "theory": "sgd"}'}
    for part in (slice(0, 100), slice(100, 200)):
        table = to_table({name: values[part] for name, values in truth.items()})
        folder = tmp_path / 'smd'
        folder.mkdir(exist_ok=True)
        pq.write_table(
            table.replace_schema_metadata(facts),
            folder / f'{part.start + 1:010d}-{part.stop:010d}.parquet',
            compression='zstd',
            write_page_checksum=True,
        )
    writer = RecordWriter(tmp_path, {'theory': 'sgd'}, resume_from=151)
    writer.append({name: values[150:] for name, values in truth.items()})
    kept = dict(read_records(tmp_path).by_layer())['a']
    assert kept['iter'].tolist() == list(range(1, 301))
    for name in (f'q_{kind}' for kind in STATISTICS):
        # What an earlier version has written stays as it is, where it is cut as well.
        assert np.array_equal(kept[name][:150], truth[name][:150])
        assert kept[name] == pytest.approx(truth[name], rel=2.0**-23)


def test_columns_that_are_not_asked_for_are_not_read(tmp_path):
    RecordWriter(tmp_path).append(quantities(1000))
    [part] = (tmp_path / 'smd').iterdir()
    group = pq.read_metadata(part).row_group(0)
    found = {
        group.column(i).path_in_schema: group.column(i).data_page_offset
        for i in range(group.num_columns)
    }
    damaged = bytearray(part.read_bytes())
    damaged[found['q_var'] + 100] ^= 1
    part.write_bytes(damaged)
    records = read_records(tmp_path, columns=['q_mean', 'shape', 'not there'])
    names = {'iter', 'count', 'layer', 'stage', 'q_mean', 'shape'}
    assert set(records.table.column_names) == names
    assert records.shapes() == {'a': (3, 3)}
    [(_, columns)] = records.by_layer(['q_mean', 'clipped_share', 'q_var'])
    assert set(columns) == {'q_mean', 'clipped_share'}
    assert np.isnan(columns['clipped_share']).all()
    with pytest.raises(RecordsError, match='not readable'):
        read_records(tmp_path, columns=['q_var'])


def test_layers_that_come_and_go_keep_their_rows(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.append(rows(1, ('a', 'b')))
    writer.append(rows(2, ('c', 'b', 'a'), value=2.0))
    writer.append({n: v for n, v in rows(3, ('b',), 3.0).items() if n != 'shape'})
    writer.append(rows(4, ('b', 'a'), 4.0) | {'new_mean': np.array([7.0, 8.0])})
    records = read_records(tmp_path)
    assert records.layers() == ['a', 'b', 'c']
    assert records.shapes() == dict.fromkeys('abc', (3, 3))
    found = {name: columns for name, columns in records.by_layer()}
    assert {n: c['iter'].tolist() for n, c in found.items()} == {
        'a': [1, 2, 4],
        'b': [1, 2, 3, 4],
        'c': [2],
    }
    assert found['b']['weight_norm_mean'].tolist() == [0.5, 2.0, 3.0, 4.0]
    np.testing.assert_array_equal(found['a']['new_mean'], [np.nan, np.nan, 8.0])
    shapes = records.table['shape'].to_pylist()
    assert shapes[5] is None and shapes[4] == [3, 3]


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
    nothing = to_table({name: values[:0] for name, values in rows(1).items()})
    facts = {'smd_mmdet': '{"schema_version": 1}'}
    path = tmp_path / 'smd' / f'{1:010d}-{2:010d}.parquet'
    pq.write_table(nothing.replace_schema_metadata(facts), path)
    with pytest.raises(RecordsError, match='its parts have no rows'):
        read_records(tmp_path)


def test_records_are_read_where_pandas_is_missing(tmp_path):
    """The tests' environment has it; a user's need not."""
    write_run(tmp_path)
    program = textwrap.dedent(f"""
        import sys
        class Missing:
            def find_spec(name, *_):
                if name == 'pandas':
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Missing)
        from smd_mmdet.cli import main
        sys.exit(main(['check', {str(tmp_path)!r}]))
    """)
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    assert 'equilibrium' in done.stdout
