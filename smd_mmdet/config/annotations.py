"""Images of a COCO annotation file that MMDetection trains on."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SettingError
from .settings import flag, number, section
from .types import class_of

__all__ = ['Filter', 'count_annotated', 'known_classes', 'read_filter']


@dataclass(frozen=True)
class Filter:
    """Which images MMDetection leaves out.

    Args:
        annotated: Whether an image needs an object of one of the classes.
        smallest: Fewest pixels of the shorter side of an image.
    """

    annotated: bool
    smallest: float


def read_filter(dataset: Mapping, path: str) -> Filter:
    """Read ``filter_cfg`` of a data set.

    Args:
        dataset: Settings of the data set.
        path: Dotted name of these settings.

    Returns:
        The filter; one that takes every image in test mode, as in MMDetection.

    Raises:
        SettingError: If a setting cannot be.
    """
    here = f'{path}.filter_cfg'
    filters = section(dataset, here)
    annotated = flag(filters.get('filter_empty_gt'), f'{here}.filter_empty_gt')
    smallest = number(filters.get('min_size', 0), f'{here}.min_size')
    if flag(dataset.get('test_mode'), f'{path}.test_mode'):
        return Filter(False, 0.0)
    return Filter(annotated, smallest)


def known_classes(
    dataset: Mapping, path: str, scope: str | None
) -> Collection[str] | None:
    """The names of the classes that a data set has objects of.

    Args:
        dataset: Settings of the data set.
        path: Dotted name of these settings.
        scope: ``default_scope`` of the config.

    Returns:
        ``metainfo['classes']``: a list of names, or the lines of the file it names. A
        text that names no file is left as it is, and counts as MMDetection counts it:
        a class belongs to it whose name is part of it. Where there is none, the
        classes of the data set's own class; None if that is not known here.

    Raises:
        SettingError: If ``classes`` is anything else.
    """
    here = f'{path}.metainfo'
    classes = section(dataset, here).get('classes')
    if classes is None:
        own = getattr(class_of(dataset, scope), 'METAINFO', {})
        return own.get('classes')
    if isinstance(classes, str):
        file = Path(classes)
        return file.read_text('utf-8').splitlines() if file.is_file() else classes
    if isinstance(classes, (list, tuple, set)):
        return classes
    raise SettingError(f'{here}.classes must be a list of names, got {classes!r:.80}')


def count_annotated(
    file: Path, wanted: Filter, classes: Collection[str] | None = None
) -> int:
    """Images of a COCO annotation file that MMDetection trains on.

    Args:
        file: The file.
        wanted: Which images count.
        classes: Names of the classes whose objects count; None or no name for all.

    Returns:
        The number of images.

    Raises:
        ValueError: If it is no COCO annotation file.
    """
    try:
        content = json.loads(file.read_bytes())
        # Nothing but look-ups in the file: what they raise is the file's fault.
        images = {image['id']: image for image in content['images']}
        held = _annotated(content, classes) if wanted.annotated else images.keys()
        return sum(
            min(image['width'], image['height']) >= wanted.smallest
            for key, image in images.items()
            if key in held
        )
    except (ValueError, KeyError, TypeError) as fault:
        raise ValueError(f'{file} is no COCO annotation file ({fault})') from None


def _annotated(content: Any, classes: Collection[str] | None) -> set:
    """The images that have an object of one of the classes."""
    entries = content['annotations']
    if not classes:
        return {entry['image_id'] for entry in entries}
    named = {kind['id'] for kind in content['categories'] if kind['name'] in classes}
    return {entry['image_id'] for entry in entries if entry['category_id'] in named}
