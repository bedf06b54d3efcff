"""The report of a run while it is trained: files, and images for the Visualizer."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smd_mmdet.config.errors import SettingError
from smd_mmdet.records import RecordsError
from smd_mmdet.report import write_report

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['check_report', 'report_now']


def check_report(setting: bool | str) -> bool | str:
    """Check when reports are wanted, and that they can be drawn.

    Args:
        setting: False for never, True for the end of training, 'val' for each
            validation too.

    Returns:
        The setting.

    Raises:
        SettingError: If it is something else, or a package to draw with is missing.
    """
    if not (isinstance(setting, bool) or setting == 'val'):
        raise SettingError(
            f"SMDHook: report must be False, True or 'val', got {setting!r}"
        )
    missing = [
        name
        for name in ('matplotlib', 'plotly')
        if setting and importlib.util.find_spec(name) is None
    ]
    if missing:
        raise SettingError(
            f'SMDHook: report={setting!r} needs {" and ".join(missing)}: '
            f'pip install {" ".join(missing)}'
        )
    return setting


def report_now(runner: Runner) -> None:
    """Write the report of the run so far, and send its figures to the Visualizer.

    A fault is told in the log, and training goes on.

    Args:
        runner: The run, whose ``work_dir`` has the records.
    """
    try:
        paths = write_report(runner.work_dir)
        _show(runner, paths)
    except RecordsError as fault:
        runner.logger.info(f'smd: no report yet: {fault}')
    except Exception as fault:
        runner.logger.warning(f'smd: no report: {type(fault).__name__}: {fault}')
    else:
        runner.logger.info(f'smd: report in {paths[0]}')


def _show(runner: Runner, paths: Sequence[Path]) -> None:
    from PIL import Image

    for path in paths:
        if path.suffix == '.png':
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert('RGB'))
            # A backend may take the name for that of a file, so no slash.
            runner.visualizer.add_image(f'smd_{path.stem}', pixels, runner.iter)
