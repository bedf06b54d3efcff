"""Records of a run of COCO's length: writing, size, `smd check`, `smd report`.

python benchmarks/record_scale.py [--layers 60] [--windows 7200]
"""

import argparse
import tempfile
import time
from pathlib import Path

from common import machine, table
from report_scale import ITERATIONS, measure, synthetic_run

from smd_mmdet import checks
from smd_mmdet.records import RecordWriter, read_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--layers', type=int, default=60)
    parser.add_argument('--windows', type=int, default=7200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run, again = Path(temporary, 'run'), Path(temporary, 'again')
        synthetic_run(run, args.layers, args.windows)
        total = args.layers * args.windows
        size = sum(file.stat().st_size for file in run.glob('smd/*.parquet'))
        seconds, parts = write_by_window(run, again, args.layers)
        began = time.perf_counter()
        checks.check(read_records(run))
        checking = time.perf_counter() - began
        reporting, _, peak, _ = measure(run)
    print(machine(), end='\n\n')
    rows = [
        [
            'iterations, layers, windows',
            f'{ITERATIONS:,}, {args.layers}, {args.windows}',
        ],
        ['rows', f'{total:,}'],
        ['bytes a row, merged', f'{size / total:.0f}'],
        ['a window as its own durable part, ms', f'{seconds / parts * 1e3:.1f}'],
        ['rows written a second that way', f'{parts * args.layers / seconds:,.0f}'],
        ['smd check, s', f'{checking:.1f}'],
        ['smd report with imports, s (peak MB)', f'{reporting:.1f} ({peak:.0f})'],
    ]
    print(table(['records', ''], rows))


def by_name(records) -> dict:
    numpy = {'zero_copy_only': False}
    columns = {n: records[n].to_numpy(**numpy) for n in records.column_names}
    return columns | {'layer': columns['layer'].astype(object)}


def write_by_window(run: Path, folder: Path, layers: int, parts: int = 200):
    """Seconds to write the first windows one by one, as a run does."""
    columns = by_name(read_records(run).table)
    writer = RecordWriter(folder, {'theory': 'sgd'})
    windows = []
    for part in range(parts):
        rows = slice(part * layers, (part + 1) * layers)
        windows.append({name: values[rows] for name, values in columns.items()})
    began = time.perf_counter()
    for window in windows:
        writer.append(window)
    return time.perf_counter() - began, parts


if __name__ == '__main__':
    main()
