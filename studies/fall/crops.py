"""Crops of the nuclei data for classification: what is at the centre of each?

    python -m studies.fall.crops data/nuclei_crops --train 6000 --val 1500

A crop is a ``nucleus`` where its centre is inside one, an ``edge`` where it is within
two pixels of a nucleus's border, and ``background`` where it is 4 to 16 pixels outside
of every nucleus. Images are scaled as the detectors see them, their shorter side to 512
pixels; training and validation crops come from training and validation images.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

from smd_mmdet._text import one_line
from smd_mmdet.launch.arguments import OneLineParser, path_argument

from ..real_images.data import root_of

__all__ = ['CLASSES', 'SIZE', 'classes_of', 'write_crops']

CLASSES = ('background', 'edge', 'nucleus')
# Height and width of a crop, pixels.
SIZE = 32
# Length of an image's shorter side before it is cropped.
SHORTER = 512
# Pixels from the border: an edge is nearer than the first to it, the inside of a
# nucleus further; background lies between the other two from the nearest nucleus.
EDGE, NEAR, FAR = 2.0, 4.0, 16.0


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The class of every pixel.

    Args:
        labels: Number of the nucleus that each pixel belongs to, from 1; 0 where there
            is none; uint16 of shape (height, width).

    Returns:
        Index in :data:`CLASSES`, or −1 where a pixel belongs to no class; int8 of
        shape (height, width).
    """
    # Two nuclei that touch have a border where their numbers change.
    square = np.ones((3, 3), np.uint8)
    changes = cv2.dilate(labels, square) != cv2.erode(labels, square)
    inside = _distance(changes & (labels > 0)) + 1
    outside = _distance(labels > 0)
    classes = np.full(labels.shape, -1, np.int8)
    classes[(labels == 0) & (outside >= NEAR) & (outside <= FAR)] = 0
    classes[(labels > 0) & (inside <= EDGE)] = 1
    classes[(labels > 0) & (inside > EDGE)] = 2
    return classes


def _distance(where: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest one where something is so, in pixels."""
    far = (~where).astype(np.uint8)
    return cv2.distanceTransform(far, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def write_crops(source: Path, directory: Path, counts: dict[str, int]) -> None:
    """Write the crops as ``SPLIT/CLASS/*.png``.

    Args:
        source: Folder of the nuclei data.
        directory: A folder that is not there yet.
        counts: How many crops of 'train' and of 'val'; as many of each class, give or
            take one.

    Raises:
        OSError: If the data cannot be read or the crops not written.
        ValueError: If ``directory`` is there.
    """
    if directory.exists():
        raise ValueError(f'{directory} is there already: remove it first')
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.crops-', dir=directory.parent) as name:
        complete = Path(name) / 'complete'
        for split, count in counts.items():
            for label in CLASSES:
                (complete / split / label).mkdir(parents=True)
            numbers = np.zeros(len(CLASSES), int)
            for label, crop in _crops(source, split, count):
                numbers[label] += 1
                file = complete / split / CLASSES[label] / f'{numbers[label]:06}.png'
                if not cv2.imwrite(str(file), crop):
                    raise OSError(f'{file} cannot be written')
        complete.rename(directory)


def _crops(source: Path, split: str, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Crops in turn from every image, until there are enough."""
    file = source / 'annotations' / f'{split}.json'
    if not file.is_file():
        raise OSError(f'{file} is missing')
    coco = COCO(str(file))
    images = sorted(coco.imgs.values(), key=lambda image: image['id'])
    wanted = np.full(len(CLASSES), count // len(CLASSES))
    wanted[: count % len(CLASSES)] += 1
    random = np.random.default_rng([SIZE, len(split)])
    for number, image in enumerate(images):
        picture = cv2.imread(str(source / split / image['file_name']))
        if picture is None:
            raise OSError(f'{source / split / image["file_name"]} cannot be read')
        picture, classes = _scaled(picture, coco, image['id'])
        for label in range(len(CLASSES)):
            # An equal share of what is left for each image that is left.
            share = -(-wanted[label] // (len(images) - number))
            y, x = (classes == label).nonzero()
            for chosen in random.permutation(len(y))[:share]:
                wanted[label] -= 1
                yield label, _crop(picture, y[chosen], x[chosen])
    if wanted.any():
        raise OSError(f'{source} has too few pixels for {count} crops of {split}')


def _scaled(
    picture: np.ndarray, coco: COCO, image_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image and classes of its pixels, at the scale of the crops."""
    scale = SHORTER / min(picture.shape[:2])
    size = tuple(round(side * scale) for side in picture.shape[1::-1])
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    labels = np.zeros((coco.imgs[image_id]['height'], coco.imgs[image_id]['width']))
    for number, ann in enumerate(coco.imgToAnns[image_id], 1):
        labels[coco.annToMask(ann) > 0] = number
    labels = cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    return picture, classes_of(labels)


def _crop(picture: np.ndarray, y: int, x: int) -> np.ndarray:
    """The crop around a pixel, mirrored where it reaches over the image's border."""
    half = SIZE // 2
    padded = cv2.copyMakeBorder(picture, half, half, half, half, cv2.BORDER_REFLECT_101)
    return padded[y : y + SIZE, x : x + SIZE]


def main() -> int:
    parser = OneLineParser(prog='crops', description='Crops of nuclei by their centre.')
    parser.add_argument('directory', type=path_argument, help='a new directory')
    parser.add_argument('--train', type=int, required=True, metavar='N')
    parser.add_argument('--val', type=int, required=True, metavar='N')
    args = parser.parse_args()
    counts = {'train': args.train, 'val': args.val}
    if min(counts.values()) < len(CLASSES):
        parser.error(f'expected at least {len(CLASSES)} crops of each split')
    try:
        write_crops(root_of('NUCLEI_ROOT'), Path(args.directory), counts)
    except (OSError, ValueError) as error:
        print(f'error: {one_line(error)}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
