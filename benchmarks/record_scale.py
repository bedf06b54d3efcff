"""Records of a run of COCO's length: encodings, size, writing, and what reads them.

    python benchmarks/record_scale.py [--layers 69] [--windows 7200] [--runs DIR ...]

Each way to write the columns is tried on the same rows, in turn: synthetic ones, and
those of the runs that are named. Times are those of the processor.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from common import machine, table
from report_scale import WINDOW, cost_of, size_of, synthetic_parts, synthetic_run

from smd_mmdet import records
from smd_mmdet.checks import READ
from smd_mmdet.records import MERGE_AT, RecordWriter, read_records, to_table

# Rows that encodings are tried on, and how often.
ROWS, REPEATS = 20_000, 5


@dataclass(frozen=True)
class Way:
    """A way to write rows.

    Args:
        name: What it is called.
        rows: Makes of rows in full what is written.
        options: Arguments of pyarrow's ``write_table`` for a schema.
    """

    name: str
    rows: Callable[[pa.Table], pa.Table]
    options: Callable[[pa.Schema], dict[str, Any]]


def in_full(rows: pa.Table) -> pa.Table:
    return rows


def rounded(rows: pa.Table) -> pa.Table:
    """As the writer keeps spreads and extremes: 24 bits of each."""
    return to_table({n: records._rounded(n, v) for n, v in by_name(rows).items()})


def in_float32(rows: pa.Table) -> pa.Table:
    """Spreads and extremes as float32, whose squares of small gradients are 0."""
    for index, name in enumerate(rows.column_names):
        if name.endswith(('_var', '_min', '_max')):
            rows = rows.set_column(index, name, rows[name].cast(pa.float32()))
    return rows


def all_rounded(rows: pa.Table) -> pa.Table:
    """Means with 24 bits as well."""
    columns = by_name(rows)
    for name in columns:
        if name.endswith(('_mean', '_eq')):
            columns[name] = records._rounded('_var', columns[name])
    return rounded(to_table(columns))


def by_layer(rows: pa.Table) -> pa.Table:
    """The windows of one layer after those of another."""
    order = [('layer', 'ascending'), ('iter', 'ascending')]
    return rounded(rows).sort_by(order)


def before(schema: pa.Schema) -> dict[str, Any]:
    """As version 0.1 wrote them: dictionaries, as far as they help."""
    return dict(compression='zstd')


def no_dictionary(schema: pa.Schema) -> dict[str, Any]:
    return records._encodings(schema) | dict(use_byte_stream_split=False)


def now(schema: pa.Schema, **changes: Any) -> dict[str, Any]:
    known = records._encodings(schema)
    # Those of other floats as well.
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    others = [n for n in known['use_dictionary'] if n not in floats]
    own = dict(use_byte_stream_split=floats, use_dictionary=others)
    return known | own | dict(write_statistics=others) | changes


def delta(schema: pa.Schema) -> dict[str, Any]:
    """Iterations, counts and stages as differences from the ones before."""
    options = now(schema)
    whole = [field.name for field in schema if field.type == pa.int64()]
    split = dict.fromkeys(options.pop('use_byte_stream_split'), 'BYTE_STREAM_SPLIT')
    encoding = split | dict.fromkeys(whole, 'DELTA_BINARY_PACKED')
    others = [n for n in options['use_dictionary'] if n not in whole]
    return options | dict(use_dictionary=others, column_encoding=encoding)


WAYS = (
    Way('version 0.1: dictionaries, zstd', in_full, before),
    Way('no dictionaries of floats', in_full, no_dictionary),
    Way('byte stream split', in_full, now),
    Way('and spreads, extremes to 24 bits: as written', rounded, now),
    Way('… these in float32', in_float32, now),
    Way('… means to 24 bits too', all_rounded, now),
    Way('… 24 bits, no byte stream split', rounded, no_dictionary),
    Way('… iterations by differences', rounded, delta),
    Way(
        '… with statistics of all columns',
        rounded,
        lambda s: now(s) | dict(write_statistics=True),
    ),
    Way('… layer by layer', by_layer, now),
    Way('… zstd 9', rounded, lambda s: now(s) | dict(compression_level=9)),
    Way('… lz4', rounded, lambda s: now(s, compression='lz4')),
    Way('… snappy', rounded, lambda s: now(s, compression='snappy')),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--layers', type=int, default=69)
    parser.add_argument('--windows', type=int, default=7200)
    parser.add_argument('--runs', nargs='*', type=Path, default=[], metavar='DIR')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run, again = Path(temporary, 'run'), Path(temporary, 'again')
        synthetic_run(run, args.layers, args.windows * WINDOW)
        total = args.layers * args.windows
        size = size_of(run)
        seconds, parts = write_by_window(run, again, args.layers)
        check, report = cost_of('check', run), cost_of('report', run)
        print(machine(), end='\n\n')
        rows = [
            [
                'iterations, layers, windows',
                f'{args.windows * WINDOW:,}, {args.layers}, {args.windows}',
            ],
            ['rows', f'{total:,}'],
            ['MB, merged', f'{size / 1e6:.1f}'],
            ['bytes a row, merged', f'{size / total:.0f}'],
            ['a window as its own durable part, ms', f'{seconds / parts * 1e3:.1f}'],
            ['rows written a second that way', f'{parts * args.layers / seconds:,.0f}'],
            ['smd check, s of CPU (peak MB)', f'{check.busy:.1f} ({check.peak:.0f})'],
            [
                'smd report, s of CPU (peak MB)',
                f'{report.busy:.1f} ({report.peak:.0f})',
            ],
        ]
        print(table(['records', ''], rows))
        parts = islice(synthetic_parts(args.layers), 4)
        print_ways('synthetic', [to_table(rows) for rows in parts])
        for folder in args.runs:
            print_ways(folder.name, parts_of(folder))


def by_name(rows: pa.Table) -> dict:
    numpy = {'zero_copy_only': False}
    columns = {n: rows[n].to_numpy(**numpy) for n in rows.column_names}
    return columns | {'layer': columns['layer'].astype(object)}


def write_by_window(run: Path, folder: Path, layers: int, parts: int = 200):
    """Seconds to write the first windows one by one, as a run does."""
    columns = by_name(read_records(run).table.slice(0, parts * layers))
    writer = RecordWriter(folder, {'theory': 'sgd'})
    windows = []
    for part in range(len(columns['iter']) // layers):
        rows = slice(part * layers, (part + 1) * layers)
        windows.append({name: values[rows] for name, values in columns.items()})
    began = time.perf_counter()
    for window in windows:
        writer.append(window)
    return time.perf_counter() - began, len(windows)


def parts_of(run: Path) -> list[pa.Table]:
    """The rows of a run, in as many windows at a time as a part has."""
    rows = read_records(run).table.replace_schema_metadata(None)
    size = min(MERGE_AT * len(rows['layer'].unique()), len(rows))
    number = max(1, min(ROWS, len(rows)) // size)
    return [rows.slice(i * size, size) for i in range(number)]


def print_ways(name: str, parts: list[pa.Table]) -> None:
    """Print what each way to write the rows of some parts costs."""
    print()
    spent = [[float('inf')] * 3 for _ in WAYS]
    sizes = [0] * len(WAYS)
    for _ in range(REPEATS):
        for index, way in enumerate(WAYS):
            sizes[index], *costs = cost_of_way(way, parts)
            spent[index] = list(map(min, spent[index], costs))
    total = sum(map(len, parts))
    lines = [
        [
            way.name,
            f'{sizes[i] / total:.0f}',
            *(f'{s / total * 1e6:.2f}' for s in spent[i]),
        ]
        for i, way in enumerate(WAYS)
    ]
    head = [f'{name}: {total:,} rows', 'bytes a row', 'write, µs a row']
    print(table([*head, 'read all', 'read what checks need'], lines))


def cost_of_way(way: Way, parts: list[pa.Table]) -> tuple[int, float, float, float]:
    """Bytes of some parts, and seconds to write, to read and to read in part."""
    made = [way.rows(part) for part in parts]
    began = time.process_time()
    files = []
    for part in made:
        files.append(io.BytesIO())
        options = way.options(part.schema)
        pq.write_table(part, files[-1], write_page_checksum=True, **options)
    written = time.process_time() - began
    whole = [read(file) for file in files]
    some = [read(file, READ) for file in files]
    return sum(f.tell() for f in files), written, sum(whole), sum(some)


def read(file: io.BytesIO, columns: tuple[str, ...] | None = None) -> float:
    """Seconds to read a file."""
    buffer = pa.BufferReader(file.getvalue())
    began = time.process_time()
    with pq.ParquetFile(buffer, page_checksum_verification=True) as parquet:
        names = parquet.schema_arrow.names
        kept = names if columns is None else [n for n in names if n in columns]
        parquet.read(kept, use_threads=False)
    return time.process_time() - began


if __name__ == '__main__':
    main()
