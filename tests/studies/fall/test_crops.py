"""Crops of nuclei: their classes by brute force, their number and their place."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuclei_files import write_folder

from smd_mmdet.datasets import convert_nuclei
from studies.fall.crops import CLASSES, SIZE, classes_of, write_crops

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')


def by_hand(labels):
    """The classes by distances between all pairs of pixels."""
    points = np.argwhere(np.ones_like(labels))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    numbers = labels.ravel()
    # A pixel of another number among the eight beside it makes a border.
    beside = np.abs(points[:, None] - points[None]).max(-1) == 1
    border = (numbers > 0) & (beside & (numbers[:, None] != numbers)).any(1)
    to_border = np.where(border, distance, np.inf).min(1)
    to_nucleus = np.where(numbers > 0, distance, np.inf).min(1)
    classes = np.full(len(numbers), -1)
    classes[(numbers == 0) & (to_nucleus >= 4) & (to_nucleus <= 16)] = 0
    classes[(numbers > 0) & (to_border <= 1)] = 1
    classes[(numbers > 0) & (to_border > 1)] = 2
    return classes.reshape(labels.shape)


def test_the_classes_are_those_of_the_distances():
    labels = np.zeros((40, 44), np.uint16)
    y, x = np.mgrid[:40, :44]
    labels[(y - 12) ** 2 + (x - 12) ** 2 < 60] = 1
    # Two that touch, of which one is cut by the image's border.
    labels[4:20, 30:38] = 2
    labels[4:20, 38:] = 3
    found = classes_of(labels)
    np.testing.assert_array_equal(found, by_hand(labels))
    assert set(np.unique(found)) == {-1, 0, 1, 2}
    assert found[10, 37] == found[10, 38] == 1


def test_where_there_is_no_nucleus_there_is_no_class():
    assert (classes_of(np.zeros((8, 8), np.uint16)) == -1).all()


@pytest.fixture(scope='module')
def nuclei(tmp_path_factory):
    """Images in which every pixel of a nucleus is white, and all else is black."""
    root = tmp_path_factory.mktemp('crops')
    y, x = np.mgrid[:256, :320]
    for number in range(6):
        mask = (y - 120) ** 2 + (x - 120 - 12 * number) ** 2 < 2400
        picture = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        name = f'cell{number}'
        write_folder(root / 'in', name, [mask], mask.shape, picture=picture)
    convert_nuclei(root / 'in', root / 'nuclei', val=0.5)
    return root / 'nuclei'


def test_the_centre_of_a_crop_is_what_its_class_says(nuclei, tmp_path):
    write_crops(nuclei, tmp_path / 'crops', {'train': 31, 'val': 9})
    for split, total in (('train', 31), ('val', 9)):
        numbers = []
        for label in CLASSES:
            files = list((tmp_path / 'crops' / split / label).iterdir())
            numbers.append(len(files))
            for file in files:
                crop = cv2.imread(str(file))
                assert crop.shape == (SIZE, SIZE, 3)
                middle = crop[SIZE // 2, SIZE // 2].mean()
                if label == 'background':
                    assert middle < 1
                if label == 'nucleus':
                    assert middle > 128
        assert sum(numbers) == total and max(numbers) - min(numbers) <= 1
    assert not list(tmp_path.glob('.crops-*'))


def test_what_is_there_is_not_overwritten(nuclei, tmp_path):
    with pytest.raises(ValueError, match='is there already'):
        write_crops(nuclei, tmp_path, {'train': 3, 'val': 3})


def test_without_the_data_the_command_says_so_in_a_line(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', '-m', 'studies.fall.crops'),
            *(tmp_path / 'crops', '--train', '3', '--val', '3'),
        ],
        cwd=ROOT,
        env={'NUCLEI_ROOT': str(tmp_path), 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
    assert not (tmp_path / 'crops').exists()
