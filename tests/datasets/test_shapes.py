"""What the shapes data set holds, judged by pycocotools."""

import contextlib
import io
import json
from collections import Counter

import cv2
import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval
from shapes_files import (
    SEED,
    TRAIN,
    VAL,
    child,
    coco,
    digests,
    load,
    pictures,
    write_folders,
)

from smd_mmdet.datasets import CLASSES, write_shapes

# pycocotools' own, on NumPy 2.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')


def test_another_process_writes_the_same_bytes(data, tmp_path):
    code = (
        'import sys; from smd_mmdet.datasets import write_shapes; '
        'write_shapes(sys.argv[1], *map(int, sys.argv[2:5]), seed=int(sys.argv[5]))'
    )
    again = tmp_path / 'again'
    arguments = (again, TRAIN, VAL, 128, SEED)
    assert child(code, *arguments, PYTHONHASHSEED='77') == 0
    assert len(digests(data)) == TRAIN + VAL + 2
    assert digests(again) == digests(data)


def test_a_smaller_set_is_the_beginning_of_a_larger_one(data, tmp_path):
    write_shapes(tmp_path / 'small', 10, 2, seed=SEED)
    small, large = digests(tmp_path / 'small'), digests(data)
    files = [name for name in small if name.endswith('.png')]
    assert len(files) == 12
    assert all(small[name] == large[name] for name in files)
    for split, count in (('train', 10), ('val', 2)):
        few, many = load(tmp_path / 'small', split), load(data, split)
        assert few['images'] == many['images'][:count]
        beginning = [a for a in many['annotations'] if a['image_id'] <= count]
        assert few['annotations'] == beginning


def test_no_picture_comes_twice(data, tmp_path):
    write_shapes(tmp_path / 'other', 10, 10, seed=SEED + 1)
    write_shapes(tmp_path / 'huge', 1, 1, seed=2**64 + SEED)
    found = [
        digest
        for directory in (data, tmp_path / 'other', tmp_path / 'huge')
        for name, digest in digests(directory).items()
        if name.endswith('.png')
    ]
    assert len(found) == len(set(found)) == TRAIN + VAL + 20 + 2


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_the_truth_taken_as_detections_scores_one(data, split, kind):
    truth = coco(data, split)
    detections = [
        {**{key: a[key] for key in ('image_id', 'category_id', 'bbox')}, 'score': 1.0}
        for a in truth.dataset['annotations']
    ]
    if kind == 'segm':
        for detection, a in zip(detections, truth.dataset['annotations'], strict=True):
            detection['segmentation'] = a['segmentation']
            del detection['bbox']
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(detections), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[:3].tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(('split', 'count'), [('train', TRAIN), ('val', VAL)])
def test_files_are_those_of_the_annotations(data, split, count):
    document = load(data, split)
    assert [c['name'] for c in document['categories']] == list(CLASSES)
    assert {'info', 'licenses'} <= set(document)
    names = sorted(image['file_name'] for image in document['images'])
    assert names == sorted(file.name for file in (data / split).iterdir())
    assert len(names) == count
    numbers = [a['id'] for a in document['annotations']]
    assert len(set(numbers)) == len(numbers)
    assert all(isinstance(number, int) and number > 0 for number in numbers)


@pytest.mark.parametrize('size', [32, 50, 101, 128])
def test_areas_and_boxes_are_those_of_the_masks(data, tmp_path, size):
    directory = data
    if size != 128:
        directory = tmp_path / 'data'
        write_shapes(directory, 40, 1, size=size, seed=1)
    for pixels, annotations, masks in pictures(directory):
        assert pixels.shape == (size, size, 3)
        assert 1 <= len(masks) <= 4
        assert np.sum(masks, axis=0).max() == 1
        for annotation, mask in zip(annotations, masks, strict=True):
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            width, height = columns.max() - left + 1, rows.max() - top + 1
            assert mask.shape == (size, size)
            assert annotation['bbox'] == [left, top, width, height]
            assert annotation['area'] == mask.sum() >= 30
            assert annotation['iscrowd'] == 0


def test_every_class_occurs_about_as_often(data):
    labels = Counter(a['category_id'] for a in load(data)['annotations'])
    assert sorted(labels) == list(range(1, len(CLASSES) + 1))
    assert max(labels.values()) < 3 * min(labels.values())


def test_every_class_has_a_folder_with_as_many_pictures(tmp_path):
    write_folders(tmp_path / 'data')
    for split, count in (('train', 5), ('val', 2)):
        folders = list((tmp_path / 'data' / split).iterdir())
        assert sorted(folder.name for folder in folders) == sorted(CLASSES)
        for folder in folders:
            pictures = [cv2.imread(str(file)) for file in folder.iterdir()]
            assert len(pictures) == count
            assert all(picture.shape == (32, 32, 3) for picture in pictures)
    file = tmp_path / 'data' / 'annotations' / 'classes_train.json'
    for image in json.loads(file.read_text())['images']:
        name = CLASSES[image['category_id'] - 1]
        assert image['file_name'].startswith(f'{name}/')
        assert (tmp_path / 'data' / 'train' / image['file_name']).is_file()


def test_pictures_of_classes_are_the_same_in_another_process(tmp_path):
    write_folders(tmp_path / 'data', seed=SEED)
    code = (
        'import sys; from smd_mmdet.datasets import write_shapes; '
        "write_shapes(sys.argv[1], 25, 10, 32, 3, kind='classification')"
    )
    assert child(code, tmp_path / 'again', PYTHONHASHSEED='77') == 0
    found = digests(tmp_path / 'data')
    assert digests(tmp_path / 'again') == found
    assert len(set(found.values())) == len(found) == 37
    write_folders(tmp_path / 'small', 10, 5, seed=SEED)
    small = {n: d for n, d in digests(tmp_path / 'small').items() if n.endswith('.png')}
    assert len(small) == 15
    assert small.items() <= found.items()
