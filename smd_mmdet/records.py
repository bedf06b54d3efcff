"""The Parquet store: one row per window and layer, in parts that are never broken.

A part is written to a temporary name, synced and renamed, so a reader sees whole
parts only. Its name tells its iterations; many small parts are merged into a larger
one, and until the small ones are gone, the reader leaves out what a wider part holds.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA_VERSION = 1
FOLDER = 'smd'
MERGE_AT = 64

_METADATA_KEY = b'smd_mmdet'
_PART = re.compile(r'(\d{10,})-(\d{10,})\.parquet')
_TYPES = {
    'iter': pa.int64(),
    'count': pa.int64(),
    'layer': pa.string(),
    'shape': pa.list_(pa.int64()),
    'stage': pa.int64(),
}


class RecordsError(ValueError):
    """Records are missing, damaged, or not ours; the message names the file."""


def to_table(columns: dict[str, np.ndarray]) -> pa.Table:
    """Rows of the monitor as an Arrow table.

    Args:
        columns: As :meth:`SphericalMotionMonitor.collect` hands them over.

    Returns:
        The table; values that are no key are float64.
    """
    fields = {name: _TYPES.get(name, pa.float64()) for name in columns}
    arrays = [pa.array(values, fields[name]) for name, values in columns.items()]
    return pa.table(arrays, schema=pa.schema(fields.items()))


@dataclass(frozen=True, order=True)
class _Part:
    first: int
    last: int
    path: Path

    @classmethod
    def at(cls, folder: Path, first: int, last: int) -> '_Part':
        return cls(first, last, folder / f'{first:010d}-{last:010d}.parquet')

    def holds(self, other: '_Part') -> bool:
        return self.first <= other.first and other.last <= self.last


def _parts(folder: Path) -> tuple[list[_Part], list[_Part]]:
    """The parts to read, in order, and those that a wider part holds."""
    found = []
    for path in folder.iterdir():
        if match := _PART.fullmatch(path.name):
            found.append(_Part(int(match[1]), int(match[2]), path))
    kept, held = [], []
    for part in sorted(found, key=lambda part: (part.first, -part.last)):
        (held if kept and kept[-1].holds(part) else kept).append(part)
    return kept, held


class RecordWriter:
    """Appends rows to ``WORK_DIR/smd``.

    Args:
        work_dir: The run's folder; ``smd`` is made in it.
        metadata: JSON-able facts about the run, kept in every part.
        resume_from: None begins a new run: records of an earlier one are moved
            aside, to ``smd-<time>``. An iteration keeps earlier records and drops
            the rows from it on, which are to be measured again.

    Raises:
        OSError: If the folder cannot be written.
        RecordsError: If a part to be cut cannot be read.
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
        if resume_from is None:
            self._set_earlier_run_aside()
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob('.*.tmp'):
            leftover.unlink()
        _, held = _parts(self.folder)
        for part in held:
            part.path.unlink()
        if resume_from is not None:
            self._drop_from(resume_from)

    def describe(self, metadata: dict) -> None:
        """Change what is kept beside the rows, in the parts written from now on."""
        facts = {'schema_version': SCHEMA_VERSION, **metadata}
        self._metadata = {_METADATA_KEY: json.dumps(facts).encode()}

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Write rows as a new part; on return they are on disk.

        Args:
            columns: As :meth:`SphericalMotionMonitor.collect` hands them over.

        Raises:
            OSError: If they cannot be written; nothing half-written stays.
        """
        if len(columns['iter']) == 0:
            return
        self._small.append(self._write(to_table(columns)))
        if len(self._small) >= MERGE_AT:
            self.merge()

    def merge(self) -> None:
        """Make one part of the small ones written since the last time."""
        if len(self._small) > 1:
            tables = [pq.read_table(part.path) for part in self._small]
            self._write(pa.concat_tables(tables))
            for part in self._small:
                part.path.unlink()
        self._small = []

    def _set_earlier_run_aside(self) -> None:
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return
        stamp = time.strftime('%Y%m%d_%H%M%S')
        self.set_aside = self.folder.with_name(f'{FOLDER}-{stamp}')
        number = 1
        while self.set_aside.exists():
            number += 1
            self.set_aside = self.folder.with_name(f'{FOLDER}-{stamp}-{number}')
        self.folder.rename(self.set_aside)

    def _drop_from(self, iteration: int) -> None:
        parts, _ = _parts(self.folder)
        for part in parts:
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
        try:
            with open(temporary, 'wb') as file:
                pq.write_table(table, file, compression='zstd')
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(part.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)
        return part


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Records:
    """The records of one run.

    Args:
        table: Rows by iteration; columns as design.md names them.
        metadata: The facts kept with the last part.
    """

    table: pa.Table
    metadata: dict

    def layers(self) -> list[str]:
        """Layer names in the order of the first window."""
        return pc.unique(self.table['layer']).to_pylist()

    def by_layer(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Name and numeric columns of each layer, rows by iteration."""
        numeric = [n for n in self.table.column_names if n not in ('layer', 'shape')]
        layer = self.table['layer'].to_numpy(zero_copy_only=False)
        columns = {name: self.table[name].to_numpy() for name in numeric}
        for name in self.layers():
            chosen = layer == name
            yield name, {key: values[chosen] for key, values in columns.items()}


def read_records(work_dir: str | os.PathLike) -> Records:
    """Read all rows of a run, also of one that is going on or was killed.

    Args:
        work_dir: The run's folder, which has ``smd/*.parquet``.

    Returns:
        The records.

    Raises:
        RecordsError: If there are none, or a part is damaged, not ours, or of
            another schema version.
    """
    folder = Path(work_dir) / FOLDER
    if not Path(work_dir).is_dir():
        raise RecordsError(f'{work_dir}: no such folder')
    if not folder.is_dir():
        raise RecordsError(
            f'{work_dir}: no records in it (no folder {FOLDER}); was the run '
            'trained with SMDHook?'
        )
    for attempt in range(3):
        parts, _ = _parts(folder)
        if not parts:
            raise RecordsError(f'{folder}: no records yet (no window is complete)')
        try:
            tables = [_read_part(part.path) for part in parts]
            break
        except FileNotFoundError:
            # A run that is going on has merged parts since they were listed.
            if attempt == 2:
                raise RecordsError(f'{folder}: records vanish while read') from None
    metadata = json.loads(tables[-1].schema.metadata[_METADATA_KEY])
    return Records(pa.concat_tables(tables), metadata)


def _read_part(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as fault:
        reason = str(fault).splitlines()[0]
        raise RecordsError(f'{path}: not readable as Parquet: {reason}') from None
    try:
        version = json.loads(table.schema.metadata[_METADATA_KEY])['schema_version']
    except (KeyError, TypeError, ValueError):
        raise RecordsError(f'{path}: not a record of smd_mmdet') from None
    if version != SCHEMA_VERSION:
        raise RecordsError(
            f'{path}: records of schema version {version}; this smd_mmdet reads '
            f'version {SCHEMA_VERSION}'
        )
    return table
