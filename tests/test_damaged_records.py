"""The store of records when merges fail, columns change, or a byte does."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from smd_mmdet.records import RecordsError, RecordWriter, read_records


def rows(iteration, **more):
    shape = np.empty(1, dtype=object)
    shape[0] = (3,)
    return {
        'iter': np.array([iteration]),
        'count': np.array([1]),
        'layer': np.array(['a'], dtype=object),
        'shape': shape,
        'stage': np.array([0]),
        **{name: np.array([value]) for name, value in more.items()},
    }


def test_a_failing_merge_neither_loses_nor_doubles_rows(tmp_path, monkeypatch):
    monkeypatch.setattr('smd_mmdet.records.MERGE_AT', 4)
    writer = RecordWriter(tmp_path)
    write = pq.write_table

    def refuses_merges(table, *args, **kwargs):
        if table.num_rows > 1:
            raise OSError(28, 'No space left on device')
        write(table, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr('smd_mmdet.records.pq.write_table', refuses_merges)
        for iteration in range(1, 6):
            writer.append(rows(iteration))
    for iteration in range(6, 20):
        writer.append(rows(iteration))
    assert read_records(tmp_path).table['iter'].to_pylist() == list(range(1, 20))


def test_parts_with_other_columns_are_read_together(tmp_path):
    RecordWriter(tmp_path).append(rows(1, old=1.0))
    RecordWriter(tmp_path, resume_from=2).append(rows(2, new=2.0))
    table = read_records(tmp_path).table.to_pandas()
    assert table['new'].isna().tolist() == [True, False]
    assert table['old'].isna().tolist() == [False, True]


def test_a_changed_byte_in_the_data_is_noticed(tmp_path):
    writer = RecordWriter(tmp_path)
    values = np.random.default_rng(0).normal(size=1000)
    writer.append(
        {name: np.repeat(column, 1000) for name, column in rows(1).items()}
        | {'weight_norm_mean': values}
    )
    [part] = (tmp_path / 'smd').glob('*.parquet')
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(RecordsError, match='not readable'):
        read_records(tmp_path)
