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


def write_run(work_dir, **changes):
    """The folder of a simulated run."""
    records = simulated(**changes)
    columns = {n: records.table[n].to_pylist() for n in records.table.column_names}
    RecordWriter(work_dir, records.metadata).append(columns)
    return work_dir


def write_scalars(work_dir, stamp, lines, broken=False):
    """The log folder of one start of a run."""
    folder = work_dir / stamp / 'vis_data'
    folder.mkdir(parents=True)
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'scalars.json').write_text(text + ('{"lr": 0.0' if broken else ''))
    (work_dir / stamp / f'{stamp}.log').write_text('nothing')
