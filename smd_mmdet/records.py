"""The Parquet store: one row per window and layer, in parts that are never broken.

A part is a file. It is written to a temporary name, synced and renamed, so a reader
sees whole parts only. The name of a part tells the first and the last iteration in
it. Many small parts are merged into a larger one. Until the small ones are deleted,
the reader leaves out every part whose iterations lie within those of a wider part.
"""

import contextlib
import functools
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smd_mmdet._text import first_line

__all__ = [
    'FOLDER',
    'MERGE_AT',
    'SCHEMA_VERSION',
    'UNREADABLE',
    'DamagedPartError',
    'RecordWriter',
    'Records',
    'RecordsError',
    'read_metadata',
    'read_records',
    'to_table',
]

SCHEMA_VERSION = 1
# Folders within the run's: the records, and parts that could not be read at a resume.
FOLDER = 'smd'
UNREADABLE = 'smd-unreadable'
# How many small parts are written before they are merged into one.
MERGE_AT = 64

# Called as progress(items, total=..., description=...) it returns the items, and shows
# how far they are; rich.progress.track is such a function.
_Progress = Callable[..., Iterable]

_METADATA_KEY = b'smd_mmdet'
# So many threads read parts: pyarrow lets go of Python's lock while it decodes.
_READERS = min(4, os.cpu_count() or 1)
_PART = re.compile(r'(\d{10,})-(\d{10,})\.parquet')
_TYPES = {
    'iter': pa.int64(),
    'count': pa.int64(),
    'layer': pa.string(),
    'shape': pa.list_(pa.int64()),
    'stage': pa.int64(),
}
# What is kept of spreads, extremes and quantiles: as many significant bits as a float32
# has, in float64, whose range the square of a small gradient needs. Rounding an extreme
# outwards lets no step lie beyond it.
_BITS = 24
_ROUNDED = re.compile(r'_(var|min|max|q\d\d)')
_OUTWARDS = {'min': np.floor, 'max': np.ceil}
# Columns that records of earlier versions lack: what they say is not known there.
_ADDED = ('clipped_share', 'clip_coefficient_mean', 'clipping_power')
# A row that lacks a value in one of these columns is of no use.
_KEYS = ('iter', 'count', 'layer', 'stage')


class RecordsError(ValueError):
    """Records are missing, damaged, or not ours; the message names the file."""


class DamagedPartError(RecordsError):
    """One part is damaged or not ours; the others may be sound."""


def to_table(columns: dict[str, np.ndarray]) -> pa.Table:
    """Rows of the monitor as an Arrow table.

    Args:
        columns: Columns by name, as :meth:`SphericalMotionMonitor.collect` hands them
            over.

    Returns:
        The table. Its iterations, counts and stages are int64, layers are strings,
        shapes are lists of int64, and all other columns are float64.

    Example:
        >>> table = to_table({'iter': np.array([50]), 'lr': np.array([1])})
        >>> [str(field.type) for field in table.schema]
        ['int64', 'double']
    """
    fields = {name: _TYPES.get(name, pa.float64()) for name in columns}
    arrays = [pa.array(values, fields[name]) for name, values in columns.items()]
    return pa.table(arrays, schema=pa.schema(fields.items()))


def _rounded(name: str, values: np.ndarray) -> np.ndarray:
    """The values of a column as they are kept, each within 2⁻²³ of itself."""
    kind = _ROUNDED.search(name[-4:])
    if kind is None:
        return values
    fraction, exponent = np.frexp(np.asarray(values, np.float64))
    to_whole = _OUTWARDS.get(kind[1], np.rint)
    with np.errstate(over='ignore'):
        kept = np.ldexp(to_whole(fraction * 2.0**_BITS), exponent - _BITS)
    # Next to the largest number, rounding would reach infinity.
    return np.where(np.isfinite(kept), kept, values)


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """How the columns are written; benchmarks/record_scale.py measures others.

    The bytes of floats are written apart, the first of all values before the second of
    all: signs and exponents are much alike, and so are the zeros that rounding leaves.
    """
    floats = [field.name for field in schema if field.type == pa.float64()]
    others = [field.name for field in schema if field.type != pa.float64()]
    # A list is known by the path of its numbers.
    others += [f'{name}.list.element' for name in others if name == 'shape']
    return dict(
        compression='zstd',
        use_byte_stream_split=floats,
        use_dictionary=others,
        write_statistics=others,
    )


@dataclass(frozen=True, order=True)
class _Part:
    """A file of rows, by the first and the last iteration that it holds."""

    first: int
    last: int
    path: Path

    @classmethod
    def at(cls, folder: Path, first: int, last: int) -> '_Part':
        """The part of these iterations, named as it is on disk."""
        return cls(first, last, folder / f'{first:010d}-{last:010d}.parquet')

    def holds(self, other: '_Part') -> bool:
        """Whether all iterations of another part are among those of this one."""
        return self.first <= other.first and other.last <= self.last


def _listed(folder: Path) -> set[_Part]:
    """All files in a folder that are named as a part is."""
    matches = ((_PART.fullmatch(path.name), path) for path in folder.iterdir())
    return {_Part(int(m[1]), int(m[2]), path) for m, path in matches if m}


def _parts(folder: Path) -> tuple[list[_Part], list[_Part]]:
    """The parts to read, in order, and those that a wider part holds."""
    # A folder that is listed while a merge replaces its parts may show neither the
    # small ones nor the large one. So it is listed until two listings agree.
    found, before = _listed(folder), None
    while found != before:
        found, before = _listed(folder), found
    return _without_held(found)


def _without_held(found: Iterable[_Part]) -> tuple[list[_Part], list[_Part]]:
    """The parts that no other one holds, in order, and those that one does."""
    kept: list[_Part] = []
    held: list[_Part] = []
    for part in sorted(found, key=lambda part: (part.first, -part.last)):
        (held if kept and kept[-1].holds(part) else kept).append(part)
    return kept, held


class RecordWriter:
    """Appends rows to ``WORK_DIR/smd``.

    Args:
        work_dir: The run's folder, in which ``smd`` is made.
        metadata: Facts about the run that JSON can hold; they are kept in every part.
        resume_from: None begins a new run, and moves the records of an earlier one
            aside, to ``smd-<time>``. An iteration resumes a run: earlier records are
            kept, rows from that iteration on are dropped, for they will be measured
            again, and parts that cannot be read are moved to ``smd-unreadable``.

    Attributes:
        folder: The folder of the records.
        set_aside: Where the records of an earlier run have been moved, or None.
        unreadable: Where parts that could not be read have been moved.

    Raises:
        OSError: If the folder cannot be written. The same may be tried again.

    Example:
        >>> writer = RecordWriter('run', {'theory': 'sgd'})
        >>> for end in (50, 100):
        ...     rows = dict(iter=[end], count=[50], layer=['conv1'], stage=[0])
        ...     writer.append(rows | dict(weight_norm_mean=[2.0]))
        >>> sorted(path.name for path in writer.folder.iterdir())
        ['0000000050-0000000050.parquet', '0000000100-0000000100.parquet']
        >>> writer.merge()
        >>> [path.name for path in writer.folder.iterdir()]
        ['0000000050-0000000100.parquet']
    """

    def __init__(
        self,
        work_dir: str | os.PathLike,
        metadata: dict | None = None,
        resume_from: int | None = None,
    ) -> None:
        self.folder = Path(work_dir) / FOLDER
        self.describe(metadata or {})
        self._small: list[_Part] = []
        self.set_aside: Path | None = None
        self.unreadable: list[Path] = []
        if resume_from is None:
            self._set_earlier_run_aside()
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob('.*.tmp'):
            leftover.unlink()
        if resume_from is not None:
            self._move_unreadable()
            self._drop_from(resume_from)

    def describe(self, metadata: dict) -> None:
        """Change the facts about the run, in the parts that are written from now on.

        Args:
            metadata: Facts about the run that JSON can hold.
        """
        facts = {'schema_version': SCHEMA_VERSION, **metadata}
        self._metadata = {_METADATA_KEY: json.dumps(facts).encode()}

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Write rows as a new part; on return they are on disk.

        Args:
            columns: Columns by name, as :meth:`SphericalMotionMonitor.collect` hands
                them over.

        Raises:
            OSError: If they cannot be written; nothing half-written stays.
        """
        if len(columns['iter']) == 0:
            return
        kept = {name: _rounded(name, values) for name, values in columns.items()}
        self._small.append(self._write(to_table(kept)))
        if len(self._small) >= MERGE_AT:
            self.merge()

    def merge(self) -> None:
        """Make one part of the small ones that were written since the last merge.

        If that fails, the small ones stay, and no row is lost.
        """
        small, self._small = self._small, []
        if len(small) < 2:
            return
        with contextlib.suppress(OSError, RecordsError, pa.ArrowException):
            self._write(_concat([_read_part(part.path) for part in small]))
            for part in small:
                part.path.unlink()

    def _set_earlier_run_aside(self) -> None:
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return
        stamp = time.strftime('%Y%m%d_%H%M%S')
        aside = _unused(self.folder.with_name(f'{FOLDER}-{stamp}'))
        self.folder.rename(aside)
        self.set_aside = aside

    def _move_unreadable(self) -> None:
        for part in sorted(_listed(self.folder)):
            try:
                _read_part(part.path)
            except RecordsError:
                aside = self.folder.with_name(UNREADABLE)
                aside.mkdir(exist_ok=True)
                aside = _unused(aside / part.path.name)
                part.path.rename(aside)
                self.unreadable.append(aside)

    def _drop_from(self, iteration: int) -> None:
        parts, held = _parts(self.folder)
        for part in held:
            part.path.unlink()
        # From the last one backwards: if this is cut short, what is left has no gap.
        for part in reversed(parts):
            if part.last < iteration:
                continue
            if part.first < iteration:
                table = _read_part(part.path)
                self._write(table.filter(pc.field('iter') < iteration))
            part.path.unlink()

    def _write(self, table: pa.Table) -> _Part:
        bounds = pc.min_max(table['iter'])
        part = _Part.at(self.folder, bounds['min'].as_py(), bounds['max'].as_py())
        temporary = part.path.with_name(f'.{part.path.name}.{os.getpid()}.tmp')
        table = table.replace_schema_metadata(self._metadata)
        # A user may have deleted the folder of a run that goes on.
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, 'wb') as file:
                pq.write_table(
                    table, file, write_page_checksum=True, **_encodings(table.schema)
                )
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(part.path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)
        return part


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, on systems that can sync a folder."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unused(path: Path) -> Path:
    """The path itself, or with a number behind it if there is such a file already."""
    taken, number = path, 1
    while taken.exists():
        number += 1
        taken = path.with_name(f'{path.name}-{number}')
    return taken


def _concat(tables: list[pa.Table]) -> pa.Table:
    """One table of all rows; columns that a part does not have are null in its rows."""
    return pa.concat_tables(tables, promote_options='default')


@dataclass(frozen=True)
class Records:
    """The records of one run.

    Args:
        table: Rows in the order of their iterations, with the columns that
            docs/records.md lists.
        metadata: Facts about the run, as the last part keeps them.
        source: Where the records are from, for messages.
        left_out: A sentence for each part that could not be read and was left out,
            with the iterations that are missing for it.

    Example:
        >>> rows = dict(iter=[50, 50, 100, 100], layer=['a', 'b', 'a', 'b'])
        >>> records = Records(to_table(rows | dict(lr=[0.1, 0.1, 0.1, 0.1])), {})
        >>> for name, columns in records.by_layer():
        ...     print(name, columns['iter'])
        a [ 50 100]
        b [ 50 100]
        >>> records.require(['weight_norm_mean'])
        Traceback (most recent call last):
        smd_mmdet.records.RecordsError: records: no column weight_norm_mean
    """

    table: pa.Table
    metadata: dict
    source: str = 'records'
    left_out: Sequence[str] = ()

    def require(self, columns: Iterable[str]) -> None:
        """Make sure that there are all of these columns.

        Args:
            columns: Names of columns.

        Raises:
            RecordsError: If one is missing.
        """
        missing = [name for name in columns if name not in self.table.column_names]
        if missing:
            raise RecordsError(f'{self.source}: no column {", ".join(missing)}')

    def layers(self) -> list[str]:
        """Names of the layers, in the order of the first window."""
        return list(self._rows)

    def by_layer(
        self, columns: Collection[str] | None = None
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Name and numeric columns of each layer, with rows in order of iteration.

        Args:
            columns: Names of the columns, as far as the records have them; None stands
                for all. What was added since the records were written is NaN.
        """
        have = [n for n in self.table.column_names if n not in ('layer', 'shape')]
        wanted = {*have, *_ADDED} if columns is None else columns
        # Columns that were read from files are in one piece, and are not copied here.
        known = {n: self.table[n].to_numpy() for n in have if n in wanted}
        unknown = [n for n in _ADDED if n in wanted and n not in known]
        for name, rows in self._rows.items():
            found = {key: values[rows] for key, values in known.items()}
            yield name, found | {n: np.full(len(rows), np.nan) for n in unknown}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each layer's weight, as its first row has it; none without any."""
        if 'shape' not in self.table.column_names:
            return {}
        first = {name: int(rows[0]) for name, rows in self._rows.items()}
        shapes = {name: self.table['shape'][row].as_py() for name, row in first.items()}
        return {name: tuple(shape) for name, shape in shapes.items() if shape}

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Where the rows of each layer are, in the order of their iterations."""
        layer = self.table['layer'].dictionary_encode().combine_chunks()
        place = layer.indices.to_numpy(zero_copy_only=False)
        names = layer.dictionary.to_pylist()
        ends = np.cumsum(np.bincount(place, minlength=len(names)))
        rows = np.split(np.argsort(place, kind='stable'), ends[:-1])
        return dict(zip(names, rows, strict=False))


def read_records(
    work_dir: str | os.PathLike,
    *,
    columns: Collection[str] | None = None,
    skip_damaged: bool = False,
    progress: _Progress | None = None,
) -> Records:
    """Read all rows of a run, also of one that is going on or was killed.

    Args:
        work_dir: The run's folder, which has ``smd/*.parquet``.
        columns: Names of the columns to read, besides ``iter``, ``count``, ``layer``
            and ``stage``; those that the records lack are left out. None reads all.
        skip_damaged: Whether to leave out parts that cannot be read, and to tell
            which in :attr:`Records.left_out`.
        progress: Shows how far the reading is: called once, as
            ``progress(items, total=..., description=...)``, it returns the items.

    Returns:
        The records.

    Raises:
        RecordsError: If there are none, or a part is damaged, not ours, or of
            another schema version.

    Example:
        >>> rows = dict(iter=[50], count=[50], layer=['conv1'], stage=[0], lr=[0.1])
        >>> RecordWriter('run', {'theory': 'sgd'}).append(rows)
        >>> records = read_records('run')
        >>> records.layers(), records.metadata['theory']
        (['conv1'], 'sgd')
        >>> records.table.select(['iter', 'lr']).to_pylist()
        [{'iter': 50, 'lr': 0.1}]
    """
    folder = _records_folder(work_dir)
    for attempt in range(3):
        parts, held = _parts(folder)
        if not parts:
            raise RecordsError(f'{folder}: {_why_none(folder)}')
        try:
            read, table, faults = _read_parts(parts, columns, skip_damaged, progress)
            if faults and held:
                # A merge that was cut short leaves small parts beside the wide one.
                kept, _ = _without_held({*read, *held})
                read, table, _ = _read_parts(kept, columns, skip_damaged, None)
            break
        except FileNotFoundError:
            # The run is going on, and has merged parts since they were listed.
            if attempt == 2:
                raise RecordsError(f'{folder}: records vanish while read') from None
    if not read:
        raise RecordsError(f'{folder}: none of its {len(parts)} parts can be read')
    if not table.num_rows:
        raise RecordsError(f'{folder}: its parts have no rows')
    left_out = [f'{faults[p]}; {_missing(p, parts, read)}' for p in faults]
    return Records(table, _facts(table), str(folder), left_out)


def _records_folder(work_dir: str | os.PathLike) -> Path:
    """The folder of a run's records, if there is one."""
    folder = Path(work_dir) / FOLDER
    if not Path(work_dir).is_dir():
        known = Path(work_dir).exists()
        what = "it is a file; a run's folder is wanted" if known else 'no such folder'
        raise RecordsError(f'{work_dir}: {what}')
    if not folder.is_dir():
        raise RecordsError(
            f'{work_dir}: no records in it (no folder {FOLDER}); was the run '
            'trained with SMDHook?'
        )
    return folder


def _read_parts(
    parts: Sequence[_Part],
    columns: Collection[str] | None,
    skip_damaged: bool,
    progress: _Progress | None,
) -> tuple[list[_Part], pa.Table, dict[_Part, DamagedPartError]]:
    """The parts that can be read, their rows, and what is wrong with the others."""

    def read(part: _Part) -> pa.Table | DamagedPartError:
        try:
            return _read_part(part.path, columns)
        except DamagedPartError as fault:
            if not skip_damaged:
                raise
            return fault

    sound, rows = [], _Gathered()
    faults: dict[_Part, DamagedPartError] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        found: Iterable = pool.map(read, parts)
        if progress is not None:
            found = progress(found, total=len(parts), description='reading records')
        for part, table in zip(parts, found, strict=True):
            if isinstance(table, DamagedPartError):
                faults[part] = table
            else:
                sound.append(part)
                rows.add(table)
    return sound, rows.table(), faults


class _Gathered:
    """Gathers the rows of parts, each numeric column in one piece of memory.

    A table of many small pieces takes half as much memory again, and each use of one of
    its columns would copy it.
    """

    def __init__(self) -> None:
        self._number = 0
        self._kinds: dict[str, pa.DataType] = {}
        self._numbers: dict[str, np.ndarray] = {}
        self._others: dict[str, list[pa.Array]] = {}
        self._metadata: dict | None = None

    def add(self, table: pa.Table) -> None:
        """Take over the rows of a part; what earlier ones do not have is not known."""
        before, self._number = self._number, self._number + table.num_rows
        for name in table.column_names:
            self._begin(name, table[name].type, before)
        for name, values in self._numbers.items():
            # Nobody else holds these arrays, which grow without being copied.
            values.resize(self._number, refcheck=False)
            known = name in table.column_names
            values[before:] = table[name].to_numpy() if known else np.nan
        for name, pieces in self._others.items():
            known = name in table.column_names
            lost = [] if known else [pa.nulls(table.num_rows, self._kinds[name])]
            pieces.extend(table[name].chunks if known else lost)
        self._metadata = table.schema.metadata

    def _begin(self, name: str, kind: pa.DataType, before: int) -> None:
        """Make room for a column that is new after so many rows."""
        if name in self._kinds:
            return
        self._kinds[name] = kind
        if not pa.types.is_primitive(kind):
            self._others[name] = [pa.nulls(before, kind)] if before else []
        elif before:
            self._numbers[name] = np.full(before, np.nan)
        else:
            # to_pandas_dtype() would need pandas, which a user need not have.
            dtype = pa.nulls(0, kind).to_numpy(zero_copy_only=False).dtype
            self._numbers[name] = np.empty(0, dtype)

    def table(self) -> pa.Table:
        """The rows of all parts, with the metadata of the last one."""
        columns = {name: pa.array(values) for name, values in self._numbers.items()}
        for name, pieces in self._others.items():
            columns[name] = pa.chunked_array(pieces, self._kinds[name])
        in_order = {name: columns[name] for name in self._kinds}
        return pa.table(in_order).replace_schema_metadata(self._metadata)


def _missing(damaged: _Part, parts: Sequence[_Part], read: Sequence[_Part]) -> str:
    """Which iterations are not known without a part."""
    inside = [part for part in read if damaged.holds(part)]
    if inside:
        return (
            f'smaller parts stand in for it, from iteration {inside[0].first:,} to '
            f'{inside[-1].last:,}'
        )
    # A part is named by the ends of its windows; the first begins where the one
    # before it ends.
    before = [part.last for part in parts if part.last < damaged.first]
    if not before:
        return f'the iterations up to {damaged.last:,} are missing'
    return f'the iterations {max(before) + 1:,} to {damaged.last:,} are missing'


def read_metadata(work_dir: str | os.PathLike) -> dict:
    """The facts about a run, as the last part that can be read keeps them.

    Args:
        work_dir: The run's folder.

    Returns:
        The facts; an empty dict where there are no records.

    Example:
        >>> read_metadata('no such folder')
        {}
        >>> rows = dict(iter=[50], count=[50], layer=['conv1'], stage=[0])
        >>> RecordWriter('run', {'theory': 'sgd'}).append(rows)
        >>> read_metadata('run')
        {'schema_version': 1, 'theory': 'sgd'}
    """
    folder = Path(work_dir) / FOLDER
    for part in sorted(_listed(folder), reverse=True) if folder.is_dir() else ():
        with contextlib.suppress(RecordsError, FileNotFoundError):
            return _facts(_read_part(part.path, _KEYS))
    return {}


def _why_none(folder: Path) -> str:
    """Why there are no parts to read in a folder."""
    foreign = sorted(path.name for path in folder.glob('[!.]*.parquet'))
    if not foreign:
        return 'no records yet (no window is complete)'
    return (
        f'no file in it is named as a record is (FIRST-LAST.parquet, such as '
        f'0000000001-0000000050.parquet), but there is {foreign[0]}'
    )


def _facts(table: pa.Table) -> dict:
    """The facts about the run, which a part keeps in its schema."""
    return json.loads(table.schema.metadata[_METADATA_KEY])


def _read_part(path: Path, columns: Collection[str] | None = None) -> pa.Table:
    """The rows of a part, once it is known to be ours and what is read to be whole.

    Args:
        path: The file.
        columns: The columns to read besides those of :data:`_KEYS`; None reads all.
    """
    if path.is_dir():
        raise DamagedPartError(f'{path}: not readable as Parquet: it is a folder')
    try:
        # pq.read_table would make a data set of each file, which takes twice the time
        # of reading one.
        with (
            pa.OSFile(str(path)) as file,
            pq.ParquetFile(file, page_checksum_verification=True) as parquet,
        ):
            names = parquet.schema_arrow.names
            if columns is not None:
                names = [n for n in names if n in columns or n in _KEYS]
            table = parquet.read(names, use_threads=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as fault:
        reason = first_line(fault)
        raise DamagedPartError(f'{path}: not readable as Parquet: {reason}') from None
    if wrong := _fault_of((table.schema.metadata or {}).get(_METADATA_KEY, b'')):
        raise DamagedPartError(f'{path}: {wrong}')
    return _as_written(table, path)


# The parts of a run keep the same facts, the text of its config among them.
@functools.lru_cache(maxsize=4)
def _fault_of(facts: bytes) -> str:
    """What is wrong with the facts that a part keeps; empty if they are ours."""
    try:
        read = json.loads(facts)
        version = read['schema_version']
    except (KeyError, TypeError, ValueError, RecursionError):
        return 'not a record of smd_mmdet'
    if version != SCHEMA_VERSION:
        return (
            f'records of schema version {version}; this smd_mmdet reads version '
            f'{SCHEMA_VERSION}'
        )
    known = isinstance(read.get('layers', {}), dict)
    return '' if known else 'not a record of smd_mmdet'


def _as_written(table: pa.Table, path: Path) -> pa.Table:
    """The table with the types that it was written with.

    Raises:
        DamagedPartError: If a key column is missing or has gaps, or a type cannot be
            cast.
    """
    names = table.column_names
    for name in _KEYS:
        if names.count(name) != 1 or table[name].null_count:
            raise DamagedPartError(f'{path}: no column {name}, or one with gaps')
    fields = {name: _TYPES.get(name, pa.float64()) for name in names}
    written = pa.schema(fields.items(), table.schema.metadata)
    if table.schema.equals(written):
        return table
    try:
        return table.cast(written)
    except (ValueError, pa.ArrowException) as fault:
        reason = first_line(fault)
        raise DamagedPartError(f'{path}: a column of another type: {reason}') from None
