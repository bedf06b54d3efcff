"""Folders as the public archive of BBBC038 has them."""

import cv2
import numpy as np


def write_folder(root, name, masks, size=(48, 64), seed=0, picture=None):
    """One folder of the archive; its images carry an alpha channel, as theirs do.

    Args:
        root: Folder of the archive.
        name: Name of the image.
        masks: A mask for each nucleus, of shape ``size``.
        size: Height and width of the image.
        seed: Seed of the noise that the image consists of.
        picture: Pixels of the image; None for noise.
    """
    folder = root / name
    (folder / 'images').mkdir(parents=True)
    (folder / 'masks').mkdir()
    if picture is None:
        picture = np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)
    cv2.imwrite(str(folder / 'images' / f'{name}.png'), picture)
    for number, mask in enumerate(masks):
        pixels = np.where(mask, np.uint8(255), np.uint8(0))
        cv2.imwrite(str(folder / 'masks' / f'{number:04}.png'), pixels)


def shapes(size=(48, 64)):
    """Masks of known geometry: a rectangle, a disc cut by the border, one pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    return [
        (y >= 5) & (y < 17) & (x >= 20) & (x < 27),
        (y - 2) ** 2 + (x - 60) ** 2 < 81,
        (y == 47) & (x == 0),
    ]
