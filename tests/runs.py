"""Runs whose records are simulated, and the files that a run leaves."""

import json

import numpy as np
from simulation import Walk, records_of

from smd_mmdet.records import Records, RecordWriter, to_table

STEP = dict(
    lr=np.concatenate(
        [np.linspace(1e-3, 0.05, 60), np.full(900, 0.05), np.full(540, 0.005)]
    ),
    weight_decay=2e-3,
    momentum=0.8,
    size=64,
    noise=0.05,
    norm=6.0,
)
NAMES = ['backbone.conv1.weight', 'backbone.conv2.weight', 'neck.conv.weight']


def simulated(names=NAMES, metadata=None, window=20, seed=0, **changes) -> Records:
    """The records of a walk whose layers have names."""
    walk = Walk(**(STEP | changes), layers=len(names), seed=seed)
    facts = {'config': "model = dict(type='MaskRCNN')", 'max_iters': walk.steps}
    records = records_of(walk, window, metadata=facts | (metadata or {}))
    columns = {n: records.table[n].to_pylist() for n in records.table.column_names}
    columns['layer'] = [names[int(name[5:])] for name in columns['layer']]
    return Records(to_table(columns), records.metadata)


def with_columns(records, metadata=None, **columns) -> Records:
    """Records of which some columns are others."""
    table = records.table
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, to_table({name: values})[name])
    return Records(table, records.metadata if metadata is None else metadata)


def write_run(work_dir, **changes):
    """The folder of a simulated run."""
    records = simulated(**changes)
    columns = {n: records.table[n].to_pylist() for n in records.table.column_names}
    RecordWriter(work_dir, records.metadata).append(columns)
    return work_dir


# What MMEngine writes to scalars.json at a validation of COCO, and at one of training.
VALIDATION = {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_l': -1.0, 'time': 0.1, 'step': 0}


def training(iteration):
    return {'loss': 1.0, 'iter': iteration, 'step': iteration}


def write_scalars(work_dir, stamp, lines, broken=False):
    """The log folder of one start of a run."""
    folder = work_dir / stamp / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'scalars.json').write_text(text + ('{"lr": 0.0' if broken else ''))
    (work_dir / stamp / f'{stamp}.log').write_text('nothing')


def validating_config(work_dir, report=False, backend='LocalVisBackend'):
    """A config of 40 iterations, which validates after 30 of them and at the end."""
    from mmengine.evaluator import BaseMetric
    from mmengine.registry import METRICS, MODELS
    from tiny import TinyNet, tiny_config

    @MODELS.register_module(force=True)
    class PredictingNet(TinyNet):
        def forward(self, images, labels, mode='tensor'):
            found = super().forward(images, labels, mode)
            return list(found) if mode == 'predict' else found

    @METRICS.register_module(force=True)
    class Guess(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(0.25)

        def compute_metrics(self, results):
            return {'coco/bbox_mAP': float(np.mean(results))}

    config = tiny_config(work_dir, max_iters=40)
    config.train_cfg.update(val_begin=0, val_interval=30)
    config.merge_from_dict(
        dict(
            model=dict(type='PredictingNet'),
            custom_hooks=[dict(type='SMDHook', report=report, window=5, verify=False)],
            val_dataloader={
                **config.train_dataloader,
                'sampler': dict(type='DefaultSampler', shuffle=False),
            },
            val_cfg=dict(),
            val_evaluator=dict(type='Guess'),
        )
    )
    config.visualizer = dict(type='Visualizer', vis_backends=[dict(type=backend)])
    return config
