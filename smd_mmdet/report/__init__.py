"""Records and verdicts, as tables, figures and a page."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ['write_files', 'write_report']


def write_report(
    work_dir: str | os.PathLike,
    out: str | os.PathLike | None = None,
    svg: bool = False,
    layers: Sequence[str] = (),
) -> list[Path]:
    """Draw a run: figures as in the paper and one page that explains it.

    Args:
        work_dir: The run's folder, which has ``smd/*.parquet``.
        out: Folder to write to; ``WORK_DIR/report`` if none is given.
        svg: Write each figure as SVG as well.
        layers: Names of the layers that get panels of their own in the figures.

    Returns:
        The files written, the page first.

    Raises:
        RecordsError: If there are no records, or they cannot be read.
        ValueError: If a layer is not in the records, or ``out`` is no folder.
        OSError: If a file cannot be written; nothing half-written stays.
    """
    # Drawing is imported where it is needed: tables must not cost matplotlib.
    from .figures import draw, save
    from .page import render_page
    from .run import read_run

    folder = Path(work_dir) / 'report' if out is None else Path(out)
    _refuse_file(folder)
    run = read_run(work_dir)
    files = {'report.html': render_page(run).encode()}
    for name, figure in draw(run, layers).items():
        for kind in ('png', 'svg') if svg else ('png',):
            files[f'{name}.{kind}'] = save(figure, kind)
    return write_files(folder, files)


def write_files(folder: str | os.PathLike, files: Mapping[str, bytes]) -> list[Path]:
    """Write files so that each is there whole or not at all.

    Args:
        folder: Made if it is not there.
        files: Content by name.

    Returns:
        Their paths.

    Raises:
        ValueError: If ``folder`` is no folder.
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    _refuse_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in files.items():
        temporary = folder / f'.{name}.{os.getpid()}.tmp'
        try:
            temporary.write_bytes(content)
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(folder / name)
    return paths


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'{folder}: is a file, not a folder to write to')
