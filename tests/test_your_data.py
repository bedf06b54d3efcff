"""docs/your_data.md, done as written, on real nuclei."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuclei_files import write_folder
from pycocotools.coco import COCO
from real_data import real_data

from smd_mmdet import theory
from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'your_data.md').read_text('utf-8')
# Images of the archive that the test has.
IMAGES = 24
# What is added to the training of the page, to make it a matter of seconds.
SMALL = (
    *('train_cfg.max_epochs=1', 'train_cfg.val_interval=1'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
    *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
    'train_dataloader.dataset.pipeline.2.scale=(128,64)',
    'val_dataloader.dataset.pipeline.1.scale=(128,64)',
)
pytestmark = pytest.mark.filterwarnings('ignore:__array__ impl:DeprecationWarning')


def archive(folder):
    """Small images of the data, laid out as the public archive."""
    data = real_data('nuclei')
    coco = COCO(str(data / 'annotations' / 'val.json'))
    images = sorted(coco.imgs.values(), key=lambda i: len(coco.imgToAnns[i['id']]))
    for image in images[:IMAGES]:
        masks = [coco.annToMask(ann) for ann in coco.imgToAnns[image['id']]]
        picture = cv2.imread(str(data / 'val' / image['file_name']))
        write_folder(folder, Path(image['file_name']).stem, masks, picture=picture)


def run(line, folder):
    """A command of the page, in a folder that is not the checkout."""
    words = shlex.split(line)
    if words[0] == 'smd':
        words[:1] = [sys.executable, '-W', 'ignore', '-m', 'smd_mmdet.cli']
    else:
        assert words[0] == 'python'
        words[:2] = [sys.executable, '-W', 'ignore', str(ROOT / words[1])]
    if 'train.py' in line:
        words += ['--cfg-options', *SMALL]
    paths = [str(ROOT), os.environ.get('PYTHONPATH')]
    environment = {
        'PYTHONPATH': os.pathsep.join(filter(None, paths)),
        'CUDA_VISIBLE_DEVICES': '-1',
        'COLUMNS': '200',
    }
    return subprocess.run(
        words, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """What each command of the page came to, in its order."""
    folder = tmp_path_factory.mktemp('your_data')
    archive(folder / 'stage1_train')
    (config,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    name = re.search(r'Save this as `(\w+\.py)`', PAGE)[1]
    (folder / name).write_text(config)
    blocks = re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL)
    results = {}
    for line in ''.join(blocks).splitlines():
        program = 'convert' if 'converters' in line else shlex.split(line)[1]
        results[Path(program).stem] = run(line, folder)
    return folder, results


def test_every_command_does_what_it_should(done):
    _, results = done
    assert list(results) == ['convert', 'audit', 'plan', 'train', 'check', 'report']
    for name, result in results.items():
        # A plan or a check may say no.
        allowed = (0, 1) if name in ('plan', 'check') else (0,)
        assert result.returncode in allowed, (name, result.stderr[-2000:])


def test_the_audit_lists_the_weights_that_the_page_tells(done):
    folder, _ = done
    told = [int(n) for n in re.search(
        r'lists (\d+) scale-invariant weights: (\d+) convolutions of the backbone and '
        r'(\d+) of', PAGE.replace('\n', ' ')).groups()]  # fmt: skip
    found = json.loads(run('smd audit my_nuclei.py --json', folder).stdout)
    names = [p['name'] for p in found['parameters'] if p['invariant']]
    assert len(names) == told[0]
    for part, number in zip(('backbone.', 'neck.'), told[1:], strict=True):
        assert sum(name.startswith(part) for name in names) == number


def test_the_records_are_those_of_the_pages_settings(done):
    folder, _ = done
    table = read_records(folder / 'work_dirs' / 'my_nuclei').table.to_pandas()
    assert len(table) == table['layer'].nunique() == 28
    images = json.loads((folder / 'data/nuclei/annotations/train.json').read_text())
    batches = -(-len(images['images']) // 4)
    assert set(table['count']) == {batches}
    assert set(table['weight_decay']) == {2e-2}


def test_the_relaxation_times_of_the_page_are_the_theorys():
    found = re.findall(r'\| (\de-\d) \| ([\d,]+)', PAGE)
    assert len(found) == 3
    for decay, time in found:
        rate = 4 * float(decay) * 0.02 / (1 - 0.9)
        assert float(time.replace(',', '')) == pytest.approx(1 / rate, rel=0.01)
        # The mean of ‖w‖⁴ relaxes at twice the theorem's rate.
        exact = 2 * theory.relaxation_rate(0.02, float(decay), 0.9)
        assert rate == pytest.approx(exact, rel=1e-6)
    assert np.log((3**4 - 1) / (1.1**2 - 1)) == pytest.approx(6, abs=0.1)
