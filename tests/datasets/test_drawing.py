"""The pictures of the shapes data set, judged by their own pixels."""

import hashlib
import json
import math

import cv2
import numpy as np
import pytest
from shapes_files import holes, pictures, roundness

from smd_mmdet.datasets import CLASSES, drawing, write_shapes

# pycocotools' own, on NumPy 2.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')


def test_pictures_are_those_of_this_version(tmp_path):
    """A failure means: raise VERSION, or find what depends on the machine."""
    found = hashlib.sha256()
    for size in (32, 77, 128):
        write_shapes(tmp_path / str(size), 20, 1, size=size)
        for pixels, annotations, _ in pictures(tmp_path / str(size)):
            found.update(pixels.tobytes())
            found.update(json.dumps(annotations, sort_keys=True).encode())
    assert found.hexdigest()[:16] == '451e88f2ddfd44e5'


def test_a_lone_shape_has_the_outline_of_its_class(tmp_path):
    write_shapes(tmp_path / 'data', 150, 1, size=200)
    star = 5 / math.pi * math.sin(math.pi / 5) * 0.48 / 1.15
    expected = {
        'circle': 1,
        'square': 2 / math.pi,
        'triangle': 3 * math.sqrt(3) / (4 * math.pi),
        'star': star,
        'ring': 1 - 0.52**2,
    }
    seen = set()
    for _, annotations, masks in pictures(tmp_path / 'data'):
        edge = masks[0][[0, -1]].any() or masks[0][:, [0, -1]].any()
        if len(masks) > 1 or edge:
            continue
        name = CLASSES[annotations[0]['category_id'] - 1]
        assert roundness(masks[0]) == pytest.approx(expected[name], rel=0.08)
        assert holes(masks[0]) == (name == 'ring')
        seen.add(name)
    assert seen == set(CLASSES)


def test_the_outline_of_a_single_shape_is_that_of_its_class():
    star = 5 / math.pi * math.sin(math.pi / 5) * 0.48 / 1.15
    filled = {'circle': 1, 'square': 2 / math.pi, 'star': star, 'ring': 1 - 0.52**2}
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for _ in range(10):
            shape = drawing._random_shape(rng, 200, label, drawing.SINGLE_SIDES)
            mask = shape.visible
            edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
            if name in filled and not edge:
                assert roundness(mask) == pytest.approx(filled[name], rel=0.08)
                assert holes(mask) == (name == 'ring')


def rim(mask: np.ndarray) -> np.ndarray:
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3)))
    return grown.astype(bool) & ~mask


def test_masks_lie_on_what_the_picture_shows(data):
    on, off = [], []
    for pixels, _, masks in pictures(data):
        smooth = cv2.GaussianBlur(pixels, (3, 3), 0).astype(float)
        slope = np.abs(np.gradient(smooth, axis=(0, 1))).sum(axis=(0, 3))
        for mask in masks:
            on.append(slope[rim(mask)].mean())
            moved = [np.roll(mask, 4, axis) for axis in (0, 1)]
            off.append(np.mean([slope[rim(mask)].mean() for mask in moved]))
    assert np.mean(np.array(on) > np.array(off)) > 0.95
    assert np.median(on) > 2 * np.median(off)


def test_colour_does_not_tell_the_class(data):
    found = [
        (a['category_id'], pixels[mask].mean(axis=0))
        for pixels, annotations, masks in pictures(data)
        for a, mask in zip(annotations, masks, strict=True)
    ]
    labels, colors = map(np.array, zip(*found, strict=True))
    apart = np.abs(colors[:, None] - colors[None]).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    guessed = labels[apart.argmin(axis=1)]
    # One in five by chance.
    assert (guessed == labels).mean() < 0.35
