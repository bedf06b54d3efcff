"""Real detectors, through the commands a user types."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smd_mmdet.datasets import write_shapes
from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_shapes.py'


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(folder, train=24, val=4, size=64)
    return folder


def options(shapes, iterations, **others):
    """--cfg-options that point a config at the small data set and a short run."""
    values = {
        'image_scale': '(64,64)',
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations,
        'custom_hooks.0.window': 4,
        'default_hooks.checkpoint.interval': 6,
        'default_hooks.logger.interval': 4,
        'randomness.seed': 0,
        'val_evaluator.ann_file': shapes / 'annotations/instances_val.json',
        **others,
    }
    for loader in ('train_dataloader', 'val_dataloader'):
        values[f'{loader}.dataset.data_root'] = f'{shapes}/'
    return ['--cfg-options', *(f'{key}={value}' for key, value in values.items())]


def run(*command, **environment):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'SMD_PYTHON': sys.executable, **environment},
    )


def train(*arguments):
    return run(sys.executable, 'tools/train.py', *arguments)


def smd(*arguments):
    return run(sys.executable, '-m', 'smd_mmdet.cli', *arguments)


def test_the_quickstart_model_from_training_to_verdict(shapes, tmp_path):
    done = train(CONFIG, '--work-dir', tmp_path, *options(shapes, 12))
    assert done.returncode == 0, done.stderr[-3000:]
    assert '27 weights are measured at every iteration, 27 of them' in done.stdout
    records = read_records(tmp_path)
    rows = records.table.to_pandas()
    # Every convolution of backbone, neck and heads that a norm follows, and no other.
    layers = records.layers()
    assert sum(layer.startswith('backbone.') for layer in layers) == 15
    assert sum(layer.startswith('neck.') for layer in layers) == 6
    assert sum(layer.startswith('roi_head.') for layer in layers) == 6
    assert set(rows.groupby('layer')['count'].sum()) == {12}
    assert list(tmp_path.glob('iter_12.pth'))

    checked = smd('check', tmp_path, '--json')
    assert checked.returncode in (0, 1), checked.stderr
    report = json.loads(checked.stdout)
    assert sorted(layer['layer'] for layer in report['layers']) == sorted(layers)

    tested = run(
        *(sys.executable, 'tools/test.py', CONFIG, tmp_path / 'iter_12.pth'),
        *('--work-dir', tmp_path / 'test', '--cfg-options'),
        f'test_dataloader.dataset.data_root={shapes}/',
        f'test_evaluator.ann_file={shapes}/annotations/instances_val.json',
    )
    assert tested.returncode == 0, tested.stderr[-3000:]


def readme_config(folder):
    """The config of the README, as it is printed there."""
    text = (ROOT / 'README.md').read_text()
    [block] = re.findall(r'```python\n(_base_ = .*?)```', text, flags=re.DOTALL)
    path = folder / 'my_config.py'
    path.write_text(block)
    return path


SMALL_COCO = {
    'model.backbone.init_cfg': None,
    'model.backbone.depth': 18,
    'model.neck.in_channels': '[64,128,256,512]',
    'model.backbone.norm_cfg.type': 'BN',
    'model.neck.norm_cfg.type': 'BN',
    'train_cfg.max_epochs': 1,
    'train_dataloader.batch_size': 2,
    'train_dataloader.dataset.indices': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_dataloader.dataset.metainfo.classes': '(circle,square,triangle,star,ring)',
    'train_dataloader.dataset.pipeline.2.scale': '(64,64)',
    'train_dataloader.dataset.ann_file': 'annotations/instances_train.json',
    'train_dataloader.dataset.data_prefix.img': 'train/',
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
    'custom_hooks.0.window': 1,
    'custom_hooks.0.verify': False,  # 20 s, and tested elsewhere
}


def readme_options(shapes):
    values = {'train_dataloader.dataset.data_root': f'{shapes}/', **SMALL_COCO}
    return [f'{key}={value}' for key, value in values.items()]


def test_the_config_of_the_readme(shapes, tmp_path):
    """On shapes and ResNet-18, in place of COCO and ResNet-50; nothing else changed."""
    path = readme_config(tmp_path)
    done = train(
        *(path, '--work-dir', tmp_path / 'run'),
        *('--cfg-options', *readme_options(shapes)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = read_records(tmp_path / 'run')
    layers = records.layers()
    # ResNet-18 has 20 convolutions, all followed by batch norm; the neck has 8.
    assert sum(layer.startswith('backbone.') for layer in layers) == 20
    assert sum(layer.startswith('neck.') for layer in layers) == 8
    assert len(layers) == 28
    assert set(records.table['count'].to_pylist()) == {1}


def test_two_processes(shapes, tmp_path):
    done = run(
        *('bash', 'tools/dist_train.sh', CONFIG, 2, '--work-dir', tmp_path),
        *options(shapes, 8),
        CUDA_VISIBLE_DEVICES='-1',  # a machine may have a single one
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_records(tmp_path).table.to_pandas()
    assert set(rows.groupby('layer')['count'].sum()) == {8}
    assert not rows.duplicated(['layer', 'iter']).any()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['check', 'nowhere'], 'nowhere: no such folder'),
        (['check', 'docs'], 'no records in it'),
        (['check'], 'required: work_dir'),
        (['frobnicate'], 'invalid choice'),
        (['audit', 'nowhere.py'], 'nowhere.py'),
        (['shapes', '/tmp/x', '--train', '0', '--val', '1'], 'train'),
        (['shapes', '/tmp/x', '--train', 'many', '--val', '1'], 'invalid int'),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    done = smd(*arguments)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if 'Warning' not in line]
    assert len([line for line in lines if not line.startswith(' ')]) == 1, done.stderr
    assert message in done.stderr
    assert done.stdout == ''


def test_corrupt_records_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / 'smd').mkdir()
    (tmp_path / 'smd' / '0000000001-0000000009.parquet').write_bytes(b'no parquet')
    done = smd('check', tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert 'not readable as Parquet' in done.stderr
