"""The nuclei of BBBC038 (2018 Data Science Bowl, stage 1) as a COCO data set.

The public archive ``stage1_train.zip`` holds a folder per image: the image in
``ID/images/`` and, in ``ID/masks/``, one black and white PNG per nucleus.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

__all__ = ['convert_nuclei']

CATEGORY = {'id': 1, 'name': 'nucleus', 'supercategory': 'cell'}
SPLITS = ('train', 'val')


def convert_nuclei(
    source: str | os.PathLike,
    directory: str | os.PathLike,
    val: float = 0.15,
    progress: Callable[..., Iterable] | None = None,
) -> dict[str, tuple[int, int]]:
    """Write the unpacked archive of BBBC038 as a COCO data set.

    The files are ``train/*.png``, ``val/*.png``, ``annotations/train.json`` and
    ``annotations/val.json``, with one category, ``nucleus``, and masks in run-length
    encoding. Which images validate is decided by the SHA-256 of each image's name: the
    same images whatever else is in the folder, and on every machine. An empty mask is
    no nucleus and is left out.

    The files are written beside ``directory`` and moved there when complete, so an
    interrupted call leaves nothing under that name.

    Args:
        source: The unpacked archive: a folder ``ID`` per image, which holds
            ``images/ID.png`` and ``masks/*.png``.
        directory: Where to put the data set: a new or an empty directory.
        val: Share of the images to validate with, between 0 and 1. It is met on
            average: each image is drawn by its own name.
        progress: Shows how far the work is: called as ``progress(items, total=...,
            description=...)``, it returns the items. ``rich.progress.track`` is such a
            function.

    Returns:
        For ``'train'`` and ``'val'`` how many images and nuclei were written.

    Raises:
        ValueError: If an argument is out of range, if ``source`` is not laid out like
            the archive, or if ``directory`` is not empty.
        OSError: If a file cannot be read or written.

    Example:
        >>> import cv2, numpy as np
        >>> from pathlib import Path
        >>> for name in ('cell', 'tissue'):
        ...     for kind in ('images', 'masks'):
        ...         Path('stage1_train', name, kind).mkdir(parents=True)
        ...     picture = np.zeros((64, 64, 3), np.uint8)
        ...     _ = cv2.imwrite(f'stage1_train/{name}/images/{name}.png', picture)
        ...     mask = np.zeros((64, 64), np.uint8)
        ...     mask[10:20, 30:50] = 255
        ...     _ = cv2.imwrite(f'stage1_train/{name}/masks/1.png', mask)
        >>> convert_nuclei('stage1_train', 'nuclei', val=0.5)
        {'train': (1, 1), 'val': (1, 1)}
    """
    if not 0 < val < 1:
        raise ValueError(f'val must lie between 0 and 1, got {val!r}')
    source, directory = Path(source), Path(os.path.realpath(directory))
    splits = _split(_images_of(source), val)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f'{directory} is not an empty directory: choose another')
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(prefix='.nuclei-', dir=directory.parent)
    with scratch as name:
        complete = Path(name) / 'complete'
        (complete / 'annotations').mkdir(parents=True)
        counts = {}
        for split, images in splits.items():
            shown: Iterable[Path] = images
            if progress is not None:
                shown = progress(images, total=len(images), description=split)
            counts[split] = _write_split(complete, split, shown)
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
        complete.rename(directory)
    return counts


def _images_of(source: Path) -> list[Path]:
    """The image of every folder, by name.

    Raises:
        ValueError: If the folders are not laid out like the archive's.
    """
    if not source.is_dir():
        raise ValueError(f'{source} is not a folder')
    images = []
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        found = sorted((folder / 'images').glob('*.png'))
        if len(found) != 1 or not (folder / 'masks').is_dir():
            raise ValueError(
                f'{folder} is not laid out like a folder of stage1_train: expected one '
                f'PNG in images/, found {len(found)}, and a folder masks/'
            )
        images += found
    if not images:
        raise ValueError(
            f'{source} holds no folder per image: unpack the archive there'
        )
    return images


def _split(images: list[Path], val: float) -> dict[str, list[Path]]:
    """Training and validation images, each drawn by its name.

    Raises:
        ValueError: If one of the two would be empty.
    """
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for image in images:
        digest = hashlib.sha256(image.stem.encode()).digest()
        drawn = int.from_bytes(digest[:8], 'big') / 2**64
        splits['val' if drawn < val else 'train'].append(image)
    for split, chosen in splits.items():
        if not chosen:
            raise ValueError(
                f'no image falls to {split}: {len(images)} images are too few for a '
                f'share of {val:g}'
            )
    return splits


def _write_split(
    directory: Path, split: str, sources: Iterable[Path]
) -> tuple[int, int]:
    """Write the images and annotations of a split; how many of each."""
    (directory / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for source in sources:
        # COCO's evaluation reads an id of 0 as "no match".
        number = len(images) + 1
        height, width = _read(source, cv2.IMREAD_COLOR).shape[:2]
        shutil.copyfile(source, directory / split / source.name)
        image = {'id': number, 'file_name': source.name}
        images.append(image | {'height': height, 'width': width})
        for file in sorted((source.parents[1] / 'masks').glob('*.png')):
            mask = _read(file, cv2.IMREAD_GRAYSCALE) > 0
            if mask.shape != (height, width):
                raise ValueError(
                    f'{file} has {mask.shape[1]} × {mask.shape[0]} pixels, its image '
                    f'{width} × {height}'
                )
            if mask.any():
                annotations.append(_annotation(mask, number, len(annotations) + 1))
    document = {
        'info': {'description': 'Nuclei, 2018 Data Science Bowl stage 1 (BBBC038)'},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [CATEGORY],
    }
    text = json.dumps(document, separators=(',', ':')) + '\n'
    (directory / 'annotations' / f'{split}.json').write_text(text, encoding='utf-8')
    return len(images), len(annotations)


def _read(file: Path, flag: int) -> np.ndarray:
    """The pixels of a PNG.

    Raises:
        OSError: If it cannot be read.
    """
    content = np.frombuffer(file.read_bytes(), np.uint8)
    pixels = cv2.imdecode(content, flag) if len(content) else None
    if pixels is None:
        raise OSError(f'{file} is no image that OpenCV can read')
    return np.asarray(pixels)


def _annotation(mask: np.ndarray, image_id: int, number: int) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        'id': number,
        'image_id': image_id,
        'category_id': CATEGORY['id'],
        'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode('ascii')},
        'area': int(coco_mask.area(rle)),
        'bbox': coco_mask.toBbox(rle).tolist(),
        'iscrowd': 0,
    }
