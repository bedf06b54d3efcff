"""Writes data sets of drawn shapes, in COCO's format or as a folder per class.

The same arguments give the same bytes, and a smaller data set is the beginning of a
larger one. :mod:`.drawing` draws the pictures; here are the files around them.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from smd_mmdet._arguments import whole_number

from .drawing import CLASSES, SPLITS, Shape, draw_scene, draw_single

__all__ = ['CLASSES', 'write_shapes']

# What the data are for, and how the names of the files that describe them begin.
KINDS = {'detection': 'instances', 'classification': 'classes'}

# Raise it with every change that alters a picture or an annotation: a directory
# written by another version then no longer counts as the same data set.
VERSION = 1

# Height and width of a picture, pixels.
MIN_SIZE = 32
MAX_SIZE = 2048


def write_shapes(
    directory: str | os.PathLike,
    train: int,
    val: int,
    size: int = 128,
    seed: int = 0,
    progress: Callable[..., Iterable] | None = None,
    kind: str = 'detection',
) -> None:
    """Write a data set of textured shapes on cluttered backgrounds.

    For detection and instance segmentation the files are ``train/*.png``,
    ``val/*.png``, ``annotations/instances_train.json`` and
    ``annotations/instances_val.json``. For classification every picture holds one
    shape, and all classes have the same number of pictures, give or take one; the
    files are ``train/CLASS/*.png`` and ``val/CLASS/*.png`` as in ImageNet, and
    ``annotations/classes_*.json`` list them.

    The files are written beside ``directory`` and moved there when complete, so an
    interrupted call leaves nothing under that name. Where the same data set is
    already complete, nothing is written and a line says so.

    Args:
        directory: Where to put the data set: a new or an empty directory.
        train: Number of training pictures, at least 1.
        val: Number of validation pictures, at least 1.
        size: Height and width of a picture in pixels, 32 to 2048.
        seed: Seed of all random choices, at least 0.
        progress: Shows how far the drawing is: called once per split, as
            ``progress(items, total=..., description=...)``, it returns the items.
            ``rich.progress.track`` is such a function.
        kind: 'detection' or 'classification'.

    Raises:
        ValueError: If an argument is out of range, or if ``directory`` holds
            anything but this very data set.
        OSError: If ``directory`` cannot be written.

    Example:
        >>> write_shapes('shapes', train=3, val=2, size=64)
        >>> import json
        >>> with open('shapes/annotations/instances_train.json') as file:
        ...     images = json.load(file)['images']
        >>> images[0]
        {'id': 1, 'file_name': '000000000001.png', 'height': 64, 'width': 64}
        >>> len(images)
        3
    """
    counts = {'train': whole_number(train, 'train'), 'val': whole_number(val, 'val')}
    size = whole_number(size, 'size', MIN_SIZE, most=MAX_SIZE)
    seed = whole_number(seed, 'seed', least=0)
    if kind not in KINDS:
        raise ValueError(f'kind must be one of {", ".join(KINDS)}, got {kind!r}')
    directory = _path(directory)
    parameters: dict[str, Any] = {
        'version': VERSION,
        **counts,
        'size': size,
        'seed': seed,
    }
    if kind != 'detection':
        parameters['kind'] = kind
    try:
        written = _is_written(directory, parameters)
        if not written:
            _write(directory, parameters, progress or _silent)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f'directory {directory} cannot be written: {reason}') from error
    if written:
        print(f'{directory} already holds this data set, nothing to do')


def _path(directory: str | os.PathLike) -> Path:
    """The directory itself, where a link to it was given."""
    try:
        path = os.fsdecode(directory)
        if path:
            return Path(os.path.realpath(path))
    except (TypeError, ValueError):
        pass
    raise ValueError(f'directory must be a path, got {directory!r}')


def _silent(items: Iterable, total: int, description: str) -> Iterable:
    return items


# ------------------------------------------------------------------ what is there


def _is_written(directory: Path, parameters: dict) -> bool:
    """Whether the directory holds this data set, complete.

    Raises:
        ValueError: If it holds anything else.
    """
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise ValueError(f'directory {directory} is a file')
    if not any(directory.iterdir()):
        return False
    for split in SPLITS:
        stored, names = _read_split(directory, split, _kind(parameters))
        if stored != parameters:
            raise ValueError(
                f'directory {directory} holds a shapes data set with other '
                f'parameters ({_listed(stored)}): choose another directory'
            )
        files = [directory / split / name for name in names]
        if len(files) != parameters[split] or not all(map(_has_content, files)):
            raise ValueError(
                f'directory {directory} holds a shapes data set with {split} '
                'pictures missing: remove it or choose another directory'
            )
    return True


def _kind(parameters: dict) -> str:
    return parameters.get('kind', 'detection')


def _read_split(directory: Path, split: str, kind: str) -> tuple[dict, list[str]]:
    """The parameters a split was written with, and the names of its pictures."""
    try:
        text = _annotations(directory, split, kind).read_text(encoding='utf-8')
        data = json.loads(text)
        names = [image['file_name'] for image in data['images']]
        return dict(data['info']['parameters']), names
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f'directory {directory} is not empty and holds no shapes data set '
            f'for {kind}: choose another directory'
        ) from None


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _listed(parameters: dict) -> str:
    return ', '.join(f'{name}={value}' for name, value in parameters.items())


def _annotations(directory: Path, split: str, kind: str) -> Path:
    return directory / 'annotations' / f'{KINDS[kind]}_{split}.json'


# ------------------------------------------------------------------ what is written


def _write(directory: Path, parameters: dict, progress: Callable) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    # The data set lies one level below the temporary directory, which no other user
    # may read.
    scratch = tempfile.TemporaryDirectory(prefix='.shapes-', dir=directory.parent)
    with scratch as name:
        complete = Path(name) / 'complete'
        (complete / 'annotations').mkdir(parents=True)
        for split in SPLITS:
            _write_split(complete, split, parameters, progress)
        if directory.exists():
            # This fails on anything but an empty directory.
            directory.rmdir()
        complete.rename(directory)


def _write_split(
    directory: Path, split: str, parameters: dict, progress: Callable
) -> None:
    kind, total = _kind(parameters), parameters[split]
    write = _write_scene if kind == 'detection' else _write_single
    (directory / split).mkdir()
    if kind == 'classification':
        for name in CLASSES:
            (directory / split / name).mkdir()
    numbers = progress(range(total), total=total, description=f'{split} pictures')
    document: dict = {'info': _info(parameters), 'licenses': [], 'images': []}
    if kind == 'detection':
        document['annotations'] = []
    document['categories'] = [
        {'id': number, 'name': name, 'supercategory': 'shape'}
        for number, name in enumerate(CLASSES, 1)
    ]
    for index in numbers:
        write(directory / split, split, index, parameters, document)
    text = json.dumps(document, separators=(',', ':')) + '\n'
    file = _annotations(directory, split, kind)
    file.write_text(text, encoding='utf-8', newline='\n')


def _write_scene(
    folder: Path, split: str, index: int, parameters: dict, document: dict
) -> None:
    picture, objects = draw_scene(parameters['seed'], split, index, parameters['size'])
    image = _write_picture(folder, f'{index + 1:012d}.png', index, picture)
    document['images'].append(image)
    annotations = document['annotations']
    for shape in objects:
        annotations.append(_annotation(shape, image['id'], len(annotations) + 1))


def _write_single(
    folder: Path, split: str, index: int, parameters: dict, document: dict
) -> None:
    seed, size = parameters['seed'], parameters['size']
    label = index % len(CLASSES)
    picture = draw_single(seed, split, index, size, label)
    name = f'{CLASSES[label]}/{index + 1:012d}.png'
    image = _write_picture(folder, name, index, picture)
    document['images'].append({**image, 'category_id': label + 1})


def _write_picture(folder: Path, name: str, index: int, picture: np.ndarray) -> dict:
    _, png = cv2.imencode('.png', picture)
    (folder / name).write_bytes(png.tobytes())
    height, width = picture.shape[:2]
    # Ids begin at 1: COCO's evaluation reads an id of 0 as "no match".
    return {'id': index + 1, 'file_name': name, 'height': height, 'width': width}


_DESCRIPTIONS = {
    'detection': 'Shapes, a procedural data set for instance segmentation',
    'classification': 'Shapes, a procedural data set for image classification',
}


def _info(parameters: dict) -> dict:
    # Without a date, which would make the bytes of two calls differ.
    return {
        'description': _DESCRIPTIONS[_kind(parameters)],
        'version': str(VERSION),
        'contributor': 'smd_mmdet',
        'parameters': parameters,
    }


def _annotation(shape: Shape, image_id: int, number: int) -> dict:
    rle = coco_mask.encode(np.asfortranarray(shape.visible, dtype=np.uint8))
    return {
        'id': number,
        'image_id': image_id,
        'category_id': shape.label + 1,
        'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode('ascii')},
        'area': int(coco_mask.area(rle)),
        'bbox': coco_mask.toBbox(rle).tolist(),
        'iscrowd': 0,
    }
