"""Records that are damaged or incomplete: what commands and a resumed run say."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from disturbed import log_of, read_commands, smd, train

from smd_mmdet.records import UNREADABLE

from .case import Group, ask, commands_end, healthy, windows

__all__ = ['DAMAGED_RECORDS', 'DAMAGES']

DAMAGED_RECORDS = Group('Damaged records')


def _rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows, columns or metadata of a part."""
    pq.write_table(change(pq.read_table(path)), path)


def _zeros_in_the_middle(path: Path) -> None:
    """Overwrite the end of the weight norms, which every command reads.

    What lies beside them may be text that nobody reads, which is no damage.
    """
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = (group.column(i) for i in range(group.num_columns))
    [column] = (c for c in columns if c.path_in_schema == 'weight_norm_mean')
    starts = column.dictionary_page_offset, column.data_page_offset
    end = min(filter(None, starts)) + column.total_compressed_size
    data = bytearray(path.read_bytes())
    assert any(data[end - 8 : end])
    data[end - 8 : end] = bytes(8)
    path.write_bytes(data)


def _column(name: str, values: Callable[[int], list]) -> Callable[[Path], None]:
    """A damage that replaces a column, by values made for so many rows."""

    def change(table):
        index = table.column_names.index(name)
        return table.set_column(index, name, pa.array(values(table.num_rows)))

    return lambda path: _rewritten(path, change)


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


# What is done to the file of a part.
DAMAGES: dict[str, Callable[[Path], None]] = {
    'not Parquet': lambda p: p.write_text('hello'),
    'truncated': lambda p: p.write_bytes(p.read_bytes()[:-100]),
    'empty': lambda p: p.write_bytes(b''),
    'zeros in its middle': _zeros_in_the_middle,
    'foreign Parquet': lambda p: pq.write_table(pa.table({'x': [1]}), p),
    'another schema version': lambda p: _rewritten(
        p,
        lambda t: t.replace_schema_metadata({'smd_mmdet': '{"schema_version": 99}'}),
    ),
    'metadata that are a list': lambda p: _rewritten(
        p, lambda t: t.replace_schema_metadata({'smd_mmdet': '[1]'})
    ),
    'no key column': lambda p: _rewritten(p, lambda t: t.drop_columns(['layer'])),
    'gaps in a key column': _column('iter', lambda n: [None] * n),
    'text in place of numbers': _column('weight_norm_mean', lambda n: ['a'] * n),
    'a folder in its place': _folder_instead,
}
_ALL_DAMAGES = ', '.join(DAMAGES)


@DAMAGED_RECORDS.case(
    'every command',
    done='`smd check`, `report`, `compare` and `plan --work-dir` on a part that is '
    f'{_ALL_DAMAGES}.',
)
def commands_on_damaged_records(folder: Path) -> str:
    """Every command that reads records, on each of :data:`DAMAGES`."""
    run = healthy(folder)
    for name, damage in DAMAGES.items():
        hurt = folder / name.replace(' ', '-')
        shutil.copytree(run, hurt)
        parts = sorted((hurt / 'smd').glob('*.parquet'))
        damage(parts[0])
        before = parts[0].is_file() and parts[0].read_bytes()
        for command, argv in read_commands(hurt, run).items():
            code, error = smd(*argv)
            ask(code == 2 and error.count('\n') == 1, f'{name}, {command}: {error}')
            ask(parts[0].name in error, f'{name}, {command}: no name in: {error}')
        ask(before == (parts[0].is_file() and parts[0].read_bytes()), 'it was changed')
    return f'{len(DAMAGES)} × 4 times one line that names the part, exit code 2'


@DAMAGED_RECORDS.case('missing columns, no rows, no parts')
def commands_on_incomplete_records(folder: Path) -> str:
    """The same commands where a measured column, all rows, or all parts are missing,
    or the folder is."""
    run = healthy(folder)

    def without_column(path):
        _rewritten(path, lambda t: t.drop_columns(['unit_h_mean', 'weight_norm_mean']))

    for i, change in enumerate(
        (
            without_column,
            lambda p: _rewritten(p, lambda t: t.slice(0, 0)),
            lambda p: p.unlink(),
            lambda p: shutil.rmtree(p.parent, ignore_errors=True),
            lambda p: shutil.rmtree(p.parent.parent, ignore_errors=True),
        )
    ):
        hurt = folder / f'incomplete{i}'
        shutil.copytree(run, hurt)
        for part in (hurt / 'smd').glob('*.parquet'):
            change(part)
        commands_end(hurt, run, {2})
    return '5 × 4 times one line, exit code 2'


@DAMAGED_RECORDS.case(
    'resume',
    done=f'One part of a run cut at iteration 25 is {_ALL_DAMAGES}, then the run is '
    'resumed.',
)
def resume_over_damaged_records(folder: Path) -> str:
    """A run is resumed over each of :data:`DAMAGES`."""
    first = folder / 'first'
    train(first, max_iters=25)
    for name, damage in DAMAGES.items():
        run = folder / name.replace(' ', '-')
        shutil.copytree(first, run)
        [part] = (run / 'smd').glob('*.parquet')
        damage(part)
        content = part.is_file() and part.read_bytes()
        runner = train(run, resume=True, load_from=str(run / 'iter_25.pth'))
        ask(runner.iter == 60, f'{name}: training stopped')
        ask('cannot be read' in log_of(runner), f'{name}: no warning')
        [kept] = (run / UNREADABLE).iterdir()
        ask(content == (kept.is_file() and kept.read_bytes()), f'{name}: not kept')
        ask(windows(run)[-3:] == [40, 50, 60], f'{name}: {windows(run)}')
    return (
        f'{len(DAMAGES)} times warned; the part is in `{UNREADABLE}`, byte for byte; '
        'training went on, and the run can be read'
    )
