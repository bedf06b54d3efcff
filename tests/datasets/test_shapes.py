"""The shapes data set, judged by pycocotools and by its own pixels."""

import contextlib
import hashlib
import io
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from smd_mmdet.datasets import CLASSES, write_shapes

# pycocotools' own, on NumPy 2.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')

TRAIN, VAL, SEED = 60, 12, 3


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp('shapes') / 'data'
    write_shapes(directory, TRAIN, VAL, seed=SEED)
    return directory


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
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        check=False,
    ).returncode


# Determinism


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


def test_pictures_are_those_of_this_version(tmp_path):
    """A failure means: raise VERSION, or find what depends on the machine."""
    found = hashlib.sha256()
    for size in (32, 77, 128):
        write_shapes(tmp_path / str(size), 20, 1, size=size)
        for pixels, annotations, _ in pictures(tmp_path / str(size)):
            found.update(pixels.tobytes())
            found.update(json.dumps(annotations, sort_keys=True).encode())
    assert found.hexdigest()[:16] == '451e88f2ddfd44e5'


# Annotations


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


# Pictures


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


# Directories


def test_a_complete_set_is_left_alone(data, capsys):
    before = {file: file.stat().st_mtime_ns for file in data.rglob('*')}
    write_shapes(data, TRAIN, VAL, seed=SEED)
    assert {file: file.stat().st_mtime_ns for file in data.rglob('*')} == before
    assert capsys.readouterr().out.count('\n') == 1


def test_new_empty_nested_and_linked_directories(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'empty')
    write_shapes(tmp_path / 'link', 1, 1)
    write_shapes(str(tmp_path / 'a' / 'b'), 1, 1)
    assert digests(tmp_path / 'empty') == digests(tmp_path / 'a' / 'b')
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a', 'empty', 'link']
    ordinary = tmp_path / 'ordinary'
    ordinary.mkdir()
    assert (tmp_path / 'empty').stat().st_mode == ordinary.stat().st_mode


def other_file(directory: Path) -> None:
    directory.mkdir()
    (directory / 'thesis.txt').write_text('ten years')


def plain_file(directory: Path) -> None:
    directory.write_text('ten years')


def other_parameters(directory: Path) -> None:
    write_shapes(directory, 2, 1, seed=1)


def missing_picture(directory: Path) -> None:
    write_shapes(directory, 2, 1)
    next((directory / 'train').iterdir()).unlink()


def empty_picture(directory: Path) -> None:
    write_shapes(directory, 2, 1)
    next((directory / 'val').iterdir()).write_bytes(b'')


def cut_annotations(directory: Path) -> None:
    write_shapes(directory, 2, 1)
    file = directory / 'annotations' / 'instances_val.json'
    file.write_bytes(file.read_bytes()[:-100])


def foreign_annotations(directory: Path) -> None:
    (directory / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        file = directory / 'annotations' / f'instances_{split}.json'
        file.write_text('{"info": {}, "images": []}')


@pytest.mark.parametrize(
    'fill',
    [
        other_file,
        plain_file,
        other_parameters,
        missing_picture,
        empty_picture,
        cut_annotations,
        foreign_annotations,
    ],
)
def test_anything_else_is_refused_and_kept(tmp_path, fill):
    directory = tmp_path / 'data'
    fill(directory)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=r'\Adirectory [^\n]+\Z'):
        write_shapes(directory, 2, 1)
    assert digests(tmp_path) == before


@pytest.mark.parametrize('exists', [False, True])
def test_an_interrupted_call_leaves_nothing(tmp_path, exists):
    directory = tmp_path / 'data'
    if exists:
        directory.mkdir()

    def interrupt(items, total, description):
        assert total in (5, 2)
        yield from list(items)[: total - 1]
        if description.startswith('val'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(directory, 5, 2, progress=interrupt)
    assert list(tmp_path.rglob('*')) == [directory] * exists


@pytest.mark.skipif(os.name != 'posix', reason='sends a signal')
def test_a_killed_call_leaves_nothing_under_the_name(tmp_path):
    code = """
import os, sys
from smd_mmdet.datasets import write_shapes

def die(items, total, description):
    yield next(iter(items))
    os.kill(os.getpid(), 9)

write_shapes(sys.argv[1], 3, 1, progress=die)
"""
    assert child(code, tmp_path / 'data') == -signal.SIGKILL
    assert not (tmp_path / 'data').exists()
    write_shapes(tmp_path / 'data', 3, 1)
    assert len(digests(tmp_path / 'data')) == 6


# Classification


def write_folders(directory, train=25, val=10, **others):
    write_shapes(directory, train, val, size=32, kind='classification', **others)


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


def test_the_outline_of_a_single_shape_is_that_of_its_class():
    from smd_mmdet.datasets import drawing

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


def test_the_two_kinds_are_not_mixed(tmp_path):
    write_shapes(tmp_path / 'scenes', 2, 1)
    write_folders(tmp_path / 'folders', 2, 1)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match='holds no shapes data set for classification'):
        write_folders(tmp_path / 'scenes', 2, 1)
    with pytest.raises(ValueError, match='holds no shapes data set for detection'):
        write_shapes(tmp_path / 'folders', 2, 1, size=32)
    write_folders(tmp_path / 'folders', 2, 1)
    assert digests(tmp_path) == before


def test_a_missing_picture_of_a_class_is_noticed(tmp_path):
    write_folders(tmp_path / 'data', 5, 5)
    next((tmp_path / 'data' / 'val' / 'star').iterdir()).unlink()
    with pytest.raises(ValueError, match='val pictures missing'):
        write_folders(tmp_path / 'data', 5, 5)


def test_progress_sees_every_picture(tmp_path):
    calls = []

    def progress(items, total, description):
        items = list(items)
        calls.append((len(items), total, description))
        return items

    write_shapes(tmp_path / 'data', 3, 2, progress=progress)
    assert [call[:2] for call in calls] == [(3, 3), (2, 2)]
    assert calls[0][2] != calls[1][2]


# Bad values


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('train', 0),
        ('train', -5),
        ('train', 2.0),
        ('train', True),
        ('train', '3'),
        ('val', 0),
        ('val', None),
        ('val', math.nan),
        ('size', 31),
        ('size', 2049),
        ('size', 64.5),
        ('size', (64, 64)),
        ('seed', -1),
        ('seed', None),
        ('seed', 0.5),
        ('kind', 'segmentation'),
        ('kind', None),
        ('directory', None),
        ('directory', 7),
        ('directory', ''),
        ('directory', 'a\0b'),
    ],
)
def test_bad_values_are_named(tmp_path, name, value):
    arguments = {'directory': tmp_path / 'data', 'train': 2, 'val': 1, name: value}
    with pytest.raises(ValueError, match=rf'\A{name} must be [^\n]+\Z'):
        write_shapes(**arguments)
    assert not list(tmp_path.iterdir())


def test_numpy_integers_are_integers(tmp_path):
    write_shapes(tmp_path / 'data', np.int64(1), np.int32(1), np.uint8(64), np.uint8(2))
    write_shapes(tmp_path / 'data', 1, 1, 64, 2)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(
        OSError, match=r'\Adirectory [^\n]+ cannot be written: [^\n]+\Z'
    ):
        write_shapes(tmp_path / 'file' / 'data', 1, 1)


@pytest.mark.skipif(
    os.name != 'posix' or os.geteuid() == 0, reason='needs a user with limits'
)
def test_a_read_only_parent_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r'directory [^\n]+ cannot be written'):
            write_shapes(tmp_path / 'data', 1, 1)
    finally:
        tmp_path.chmod(0o700)
