"""Records and verdicts of a run in; tables, figures and one HTML page out.

:mod:`~.run` computes what is shown, :mod:`~.figures` and :mod:`~.overlay` draw it for
files with the kit of :mod:`~.canvas`, :mod:`~.page` shows it in a browser,
:mod:`~.tables` in a terminal, and :mod:`~.words` explains it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import Reader

__all__ = ['write_files', 'write_report']


def write_report(
    work_dir: str | os.PathLike,
    out: str | os.PathLike | None = None,
    svg: bool = False,
    layers: Sequence[str] = (),
    read: 'Reader | None' = None,
) -> list[Path]:
    """Draw a run: figures as in the paper, and one page that explains it.

    Args:
        work_dir: The run's folder, which has ``smd/*.parquet``.
        out: Folder to write to. None is ``WORK_DIR/report``.
        svg: Whether to write each figure as SVG as well.
        layers: Names of the layers that get panels of their own in the figures.
        read: Reads the records of a folder. None is
            :func:`smd_mmdet.records.read_records`.

    Returns:
        Paths of the files written, the page first.

    Raises:
        RecordsError: If there are no records, or they cannot be read.
        ValueError: If a layer is not in the records, or ``out`` is a file.
        OSError: If a file cannot be written; nothing half-written stays.

    Example:
        Measure a weight that takes random steps, and draw what came of it:

        >>> import torch
        >>> from smd_mmdet import SphericalMotionMonitor
        >>> from smd_mmdet.records import RecordWriter
        >>> weight = torch.nn.Parameter(torch.ones(8, 4))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.01)
        >>> layers = {'conv.weight': weight}
        >>> with SphericalMotionMonitor(optimizer, layers, window=10) as monitor:
        ...     for _ in range(100):
        ...         weight.grad = torch.randn(8, 4)
        ...         optimizer.step()
        ...     rows = monitor.collect()
        >>> facts = {'layers': {'conv.weight': {'invariant': True}}}
        >>> RecordWriter('run', facts).append(rows)
        >>> [path.name for path in write_report('run')]
        ['report.html', 'angular_update.png', 'equilibrium.png', 'weight_norm.png',
         'unit_gradient.png', 'cosine.png', 'distance.png']
    """
    # Tables are used without these, and must not wait for matplotlib.
    from .canvas import save
    from .figures import draw
    from .page import render_page
    from .run import read_run

    folder = Path(work_dir) / 'report' if out is None else Path(out)
    _refuse_file(folder)
    run = read_run(work_dir, read) if read else read_run(work_dir)
    files = {'report.html': render_page(run).encode()}
    for name, figure in draw(run, layers).items():
        for kind in ('png', 'svg') if svg else ('png',):
            files[f'{name}.{kind}'] = save(figure, kind)
    return write_files(folder, files)


def write_files(folder: str | os.PathLike, files: Mapping[str, bytes]) -> list[Path]:
    """Write files so that each of them is there whole or not at all.

    Args:
        folder: Folder to write to, which is made if it is not there.
        files: Content of the files by name.

    Returns:
        Paths of the files.

    Raises:
        ValueError: If ``folder`` is a file.
        OSError: If a file cannot be written.

    Example:
        >>> [path] = write_files('figures', {'table.txt': b'0.017'})
        >>> path.read_text()
        '0.017'
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
