"""The converter of BBBC038, judged by pycocotools and by the masks it was given."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuclei_files import shapes, write_folder
from pycocotools.coco import COCO
from real_data import real_data

from smd_mmdet.datasets import convert_nuclei

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'dataset_converters' / 'nuclei.py'
# pycocotools' own, on NumPy 2.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')


def box_of(mask):
    """[x, y, width, height] by the rows and columns that a mask touches."""
    (y,), (x,) = mask.any(1).nonzero(), mask.any(0).nonzero()
    return [x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1]


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / 'stage1_train'
    for number in range(12):
        write_folder(root, f'cell{number}', shapes(), seed=number)
    write_folder(root, 'empty', [np.zeros((48, 64), bool), shapes()[0]])
    return root


def read(directory):
    return {
        s: COCO(str(directory / 'annotations' / f'{s}.json')) for s in ('train', 'val')
    }


def test_every_nucleus_is_what_its_mask_says(archive, tmp_path):
    counts = convert_nuclei(archive, tmp_path / 'nuclei', val=0.3)
    found = {}
    for split, coco in read(tmp_path / 'nuclei').items():
        assert counts[split] == (len(coco.imgs), len(coco.anns))
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == ['nucleus']
        for image in coco.imgs.values():
            copied = tmp_path / 'nuclei' / split / image['file_name']
            name = copied.stem
            original = archive / name / 'images' / copied.name
            assert copied.read_bytes() == original.read_bytes()
            assert (image['height'], image['width']) == (48, 64)
            found[name] = coco.imgToAnns[image['id']]
            expected = shapes()[:1] if name == 'empty' else shapes()
            for ann, mask in zip(found[name], expected, strict=True):
                np.testing.assert_array_equal(coco.annToMask(ann), mask)
                assert ann['area'] == mask.sum()
                assert ann['bbox'] == box_of(mask)
                assert ann['iscrowd'] == 0
    assert len(found) == 13


def test_the_split_goes_by_the_name_of_an_image_alone(archive, tmp_path):
    convert_nuclei(archive, tmp_path / 'all', val=0.5)
    for number in range(0, 12, 2):
        shutil.rmtree(archive / f'cell{number}')
    convert_nuclei(archive, tmp_path / 'some', val=0.5)
    for split in ('train', 'val'):
        names = {p.name for p in (tmp_path / 'all' / split).iterdir()}
        some = {p.name for p in (tmp_path / 'some' / split).iterdir()}
        assert some and some < names


def test_real_nuclei_come_through_the_archive_unchanged(tmp_path):
    data = real_data('nuclei')
    truth = COCO(str(data / 'annotations' / 'train.json'))
    images = sorted(truth.imgs.values(), key=lambda i: len(truth.imgToAnns[i['id']]))[
        :12
    ]
    for image in images:
        masks = [truth.annToMask(a) > 0 for a in truth.imgToAnns[image['id']]]
        name = Path(image['file_name']).stem
        write_folder(tmp_path / 'in', name, masks, (image['height'], image['width']))
    convert_nuclei(tmp_path / 'in', tmp_path / 'out', val=0.3)
    known = {image['file_name']: image['id'] for image in images}
    same = ('area', 'bbox', 'segmentation')
    seen = 0
    for coco in read(tmp_path / 'out').values():
        for image in coco.imgs.values():
            anns = coco.imgToAnns[image['id']]
            expected = truth.imgToAnns[known[image['file_name']]]
            assert [[a[k] for k in same] for a in anns] == [
                [a[k] for k in same] for a in expected
            ]
            seen += len(anns)
    assert seen > 12


def no_masks(archive):
    shutil.rmtree(archive / 'cell1' / 'masks')
    return 'cell1'


def two_images(archive):
    images = archive / 'cell2' / 'images'
    shutil.copy(images / 'cell2.png', images / 'other.png')
    return 'cell2'


def another_size(archive):
    cv2.imwrite(str(archive / 'cell3' / 'masks' / '9.png'), np.full((48, 60), 255))
    return '60 × 48'


def cut_off(archive):
    (archive / 'cell4' / 'masks' / '0000.png').write_bytes(b'')
    return 'cell4'


def no_folders(archive):
    for folder in archive.iterdir():
        shutil.rmtree(folder)
    return 'unpack the archive'


@pytest.mark.parametrize(
    'spoil', [no_masks, two_images, another_size, cut_off, no_folders]
)
def test_what_is_not_the_archive_is_refused_and_nothing_is_written(
    spoil, archive, tmp_path
):
    named = spoil(archive)
    with pytest.raises((ValueError, OSError), match=named):
        convert_nuclei(archive, tmp_path / 'nuclei', val=0.3)
    assert {path.name for path in tmp_path.iterdir()} == {'stage1_train'}


@pytest.mark.parametrize('val', [0, 1, float('nan'), 1e-9])
def test_a_share_without_images_is_refused(val, archive, tmp_path):
    with pytest.raises(ValueError, match=r'val'):
        convert_nuclei(archive, tmp_path / 'nuclei', val=val)


def test_what_is_there_is_not_overwritten(archive, tmp_path):
    (tmp_path / 'nuclei').mkdir()
    (tmp_path / 'nuclei' / 'mine.txt').write_text('mine')
    with pytest.raises(ValueError, match='not an empty directory'):
        convert_nuclei(archive, tmp_path / 'nuclei', val=0.3)
    assert [p.name for p in (tmp_path / 'nuclei').iterdir()] == ['mine.txt']


def run(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_says_what_it_wrote(archive, tmp_path):
    done = run(archive, tmp_path / 'nuclei', '--val', '0.3')
    assert done.returncode == 0
    lines = dict(line.split(': ') for line in done.stdout.splitlines())
    for split in ('train', 'val'):
        file = tmp_path / 'nuclei' / 'annotations' / f'{split}.json'
        document = json.loads(file.read_text())
        images, nuclei = len(document['images']), len(document['annotations'])
        assert lines[split] == f'{images} images, {nuclei} nuclei'


def test_a_wrong_source_is_one_line(tmp_path):
    done = run(tmp_path / 'missing', tmp_path / 'nuclei')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
