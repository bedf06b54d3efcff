"""What the tests of the shapes data set share: reading what was written."""

import contextlib
import hashlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from smd_mmdet.datasets import write_shapes

TRAIN, VAL, SEED = 60, 12, 3


def digests(directory: Path) -> dict[str, str]:
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob('*'))
        if file.is_file()
    }


def load(directory: Path, split: str = 'train') -> dict:
    return json.loads(
        (directory / 'annotations' / f'instances_{split}.json').read_text()
    )


def coco(directory: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(directory / 'annotations' / f'instances_{split}.json')


def pictures(directory: Path, split: str = 'train'):
    """Each picture with its annotations and their decoded masks."""
    document = load(directory, split)
    for image in document['images']:
        found = [a for a in document['annotations'] if a['image_id'] == image['id']]
        masks = [coco_mask.decode(a['segmentation']).astype(bool) for a in found]
        pixels = cv2.imread(str(directory / split / image['file_name']))
        yield pixels, found, masks


def child(code: str, *arguments, **environment) -> int:
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        check=False,
    ).returncode


def holes(mask: np.ndarray) -> int:
    _, hierarchy = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )[-2:]
    return int((hierarchy[0, :, 3] >= 0).sum())


def roundness(mask: np.ndarray) -> float:
    """Area over that of the smallest circle around."""
    points = np.argwhere(mask).astype(np.float32)
    _, radius = cv2.minEnclosingCircle(points)
    return mask.sum() / (math.pi * (radius + 0.5) ** 2)


def write_folders(directory, train=25, val=10, **others):
    write_shapes(directory, train, val, size=32, kind='classification', **others)
