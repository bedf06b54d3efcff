"""The configs for COCO, trained and validated on real images of COCO."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from real_data import real_data

from smd_mmdet import theory
from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[1]
NAMES = [
    'mask_rcnn/mask-rcnn_r50_fpn_syncbn-all_scratch_360k_coco',
    'retinanet/retinanet_r50_fpn_gn-all_scratch_360k_coco',
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            'mask_rcnn/mask-rcnn_r50_fpn_gn-all_scratch_360k_coco',
            'retinanet/retinanet_r50_fpn_syncbn-all_scratch_360k_coco',
        )
    ),
]
# Two iterations, and images small enough for a minute. The proof of scale invariance is
# left to the tests of the proof.
SMALL = (
    *('train_cfg.max_iters=2', 'train_cfg.val_interval=2'),
    'train_dataloader.dataset.pipeline.2.scale=[(64,32),(64,48)]',
    'val_dataloader.dataset.pipeline.1.scale=(64,32)',
    *('custom_hooks.0.window=1', 'custom_hooks.0.verify=False'),
    *(
        f'{split}_dataloader.{key}'
        for split in ('train', 'val')
        for key in ('num_workers=0', 'persistent_workers=False')
    ),
)
# To classify what an untrained detector proposes takes half a minute.
FEW_PROPOSALS = ('model.test_cfg.rpn.max_per_img=20',)


@pytest.mark.parametrize('name', NAMES)
def test_it_trains_on_coco_by_the_root_alone(name, tmp_path):
    root = real_data('coco128')
    config = ROOT / 'configs' / f'{name}.py'
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', ROOT / 'tools' / 'train.py', config),
            *('--work-dir', tmp_path, '--cfg-options', *SMALL),
            *(FEW_PROPOSALS if name.startswith('mask_rcnn') else ()),
        ],
        env=os.environ | {'COCO_ROOT': str(root), 'CUDA_VISIBLE_DEVICES': '-1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = read_records(tmp_path).table.to_pandas()
    assert list(table.groupby('layer').size()) == [2] * 69
    assert (table['count'] == 1).all()
    # Warm-up from a thousandth of the rate, over 1,000 iterations.
    optimizer = Config.fromfile(config).optim_wrapper.optimizer
    step = (1 - 0.001) / 999
    for row in table.itertuples():
        lr = optimizer.lr * (0.001 + step * (row.iter - 1))
        assert row.lr == pytest.approx(lr, rel=1e-6)
        assert row.angular_update_eq == pytest.approx(
            theory.angular_update(row.lr, optimizer.weight_decay, optimizer.momentum)
        )
    # Lemma 1 on real images; a layer without gradient has no cosine to speak of.
    cosine = table['cosine_mean'][table['grad_norm_mean'] > 0]
    assert len(cosine) > 100 and np.abs(cosine).max() < 3e-3
    # All images of the validation set; so early a detector finds nothing in them.
    (log,) = tmp_path.glob('*/*.log')
    images = json.loads((root / 'annotations/instances_val2017.json').read_text())
    total = len(images['images'])
    assert f'Iter(val) [{total}/{total}]' in log.read_text()
