"""The configs for nuclei, trained and validated on what the converter writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nuclei_files import shapes, write_folder

from smd_mmdet.datasets import convert_nuclei
from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[1]
SMALL = (
    *('train_cfg.max_iters=2', 'train_cfg.val_begin=0', 'train_cfg.val_interval=2'),
    'custom_hooks.0.verify=False',
    'train_dataloader.dataset.pipeline.3.scale=(96,48)',
    'val_dataloader.dataset.pipeline.1.scale=(128,64)',
)
# Layers that are measured, as many as on shapes, and what lets an untrained detector
# find boxes.
RUNS = {
    'mask-rcnn_r18_fpn_gn_3stage_nuclei': (27, 'model.test_cfg.rcnn.score_thr=0.0'),
    'retinanet_r18_fpn_bn_fall_nuclei': (25, 'model.test_cfg.score_thr=0.0'),
}


@pytest.fixture(scope='module')
def nuclei(tmp_path_factory):
    root = tmp_path_factory.mktemp('nuclei')
    for number in range(12):
        write_folder(root / 'in', f'cell{number}', shapes()[:2], seed=number)
    convert_nuclei(root / 'in', root / 'nuclei', val=0.3)
    return root / 'nuclei'


@pytest.mark.parametrize('name', RUNS)
def test_it_trains_and_validates(name, nuclei, tmp_path):
    layers, sensitive = RUNS[name]
    config = ROOT / 'configs' / 'nuclei' / f'{name}.py'
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', ROOT / 'tools' / 'train.py', config),
            *('--work-dir', tmp_path, '--cfg-options', *SMALL, sensitive),
        ],
        env=os.environ | {'NUCLEI_ROOT': str(nuclei), 'CUDA_VISIBLE_DEVICES': '-1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    records = read_records(tmp_path)
    assert len(records.layers()) == layers
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    total = len(list((nuclei / 'val').iterdir()))
    assert f'Iter(val) [{total}/{total}]' in text
    assert 'coco/bbox_mAP: ' in text
    assert ('coco/segm_mAP: ' in text) == name.startswith('mask')
