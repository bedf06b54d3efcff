"""Every config builds, trains, and has the layers and stages its comment tells."""

import fnmatch
import functools
import itertools
import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from smd_mmdet.audit import audit, build_untrained
from smd_mmdet.datasets import write_shapes
from smd_mmdet.invariance.sample_inputs import model_loss, sample_inputs
from smd_mmdet.plan import plan
from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT / 'configs'))
    for path in ROOT.glob('configs/*/*.py')
    if path.parent.name != '_base_'
)
COCO = [name for name in CONFIGS if name.endswith('_coco.py')]
# 117,266 images of COCO train2017 have an object.
EPOCH_OF_16 = math.ceil(117_266 / 8 / 2)
EPOCH_OF_256 = math.ceil(math.ceil(117_266 / 8) / 32)
LONG = [(300_000, 1), (340_000, 0.1), (360_000, 0.01)]
# Last iteration of each stage after the warm-up, and its share of the learning rate.
STAGES = {
    'mask_rcnn/*fixed-lr*': (0.02, [(360_000, 1)]),
    'mask_rcnn/*360k*': (0.02, LONG),
    'retinanet/*360k*': (0.01, LONG),
    'mask_rcnn/*_1x_*': (
        0.02,
        [(epoch * EPOCH_OF_16, k) for epoch, k in ((8, 1), (11, 0.1), (12, 0.01))],
    ),
    'mask_rcnn/*_2x_*': (
        0.02,
        [(epoch * EPOCH_OF_16, k) for epoch, k in ((16, 1), (22, 0.1), (24, 0.01))],
    ),
}


@functools.cache
def load(name):
    if name.startswith('classification/') and find_spec('mmpretrain') is None:
        pytest.skip('mmpretrain is missing')
    return Config.fromfile(ROOT / 'configs' / name)


def lines(name):
    return (ROOT / 'configs' / name).read_text().splitlines()


def comment(name):
    head = []
    for line in lines(name):
        if not line.startswith('#'):
            break
        head.append(line.removeprefix('# '))
    return ' '.join(head)


_built = {}
_ran = {}


def build(config):
    """Model and optimizer wrapper; configs that share both share what is built."""
    key = config.model.to_dict().__repr__() + config.optim_wrapper.to_dict().__repr__()
    if key not in _built:
        model = build_untrained(config)
        _built[key] = model, build_optim_wrapper(model, config.optim_wrapper)
    return _built[key]


def before_a_norm(model):
    """Names of the convolutions that the module tree puts right before a live norm."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = set()
    for module in model.modules():
        children = list(module.children())
        for conv, norm in itertools.pairwise(children):
            if not isinstance(conv, _ConvNd) or not norm.training:
                continue
            batch = isinstance(norm, _BatchNorm)
            if batch or (isinstance(norm, nn.GroupNorm) and conv.bias is None):
                found.add(names[id(conv.weight)])
    return found


@pytest.mark.parametrize('name', CONFIGS)
def test_the_groups_are_the_convolutions_before_a_norm(name):
    config = load(name)
    model, wrapper = build(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    chosen = set()
    for group in wrapper.optimizer.param_groups:
        if group['scale_invariant']:
            chosen |= {names[id(parameter)] for parameter in group['params']}
            if name in COCO:
                assert group['lr'] == config.optim_wrapper.optimizer.lr
                assert (
                    group['weight_decay'] == config.optim_wrapper.optimizer.weight_decay
                )
    assert chosen == before_a_norm(model)
    if name in COCO:
        told = re.search(r'Expect: (\d+) scale-invariant weights', comment(name))
        assert len(chosen) == int(told[1])


@pytest.mark.parametrize('name', COCO)
def test_the_config_is_short_and_tells_what_it_shows(name):
    assert len(lines(name)) <= 40
    assert 'Expect: ' in comment(name)
    assert 'Shows: ' in comment(name)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_hooks_can_be_built(name):
    kinds = []
    for settings in load(name).get('custom_hooks', []):
        kinds.append(settings['type'])
        if settings['type'].startswith('SMD'):
            HOOKS.build(dict(settings))
    assert 'SMDHook' in kinds
    rescaling = ('rescale', 'start-at', 'controlled')
    assert any(word in name for word in rescaling) == ('SMDRescaleHook' in kinds)
    if name.startswith('rtmdet/'):
        assert {'EMAHook', 'PipelineSwitchHook'} < set(kinds)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_loss_runs_on_random_images(name):
    model, _ = build(load(name))
    if id(model) not in _ran:
        loss = model_loss(model, sample_inputs(model), economical=True)
        _ran[id(model)] = float(loss.detach())
    assert math.isfinite(_ran[id(model)])


def test_rtmdet_is_judged_and_proved_by_its_loss():
    found = audit(load('rtmdet/rtmdet_tiny_8xb32-300e_coco.py'), verify=True)
    assert not any('loss failed' in p['reason'] for p in found['parameters'])
    assert found['contradictions'] == []
    proofs = [p['proof'] for p in found['parameters'] if p['invariant']]
    assert len(proofs) == 68 and all(proof['verdict'] for proof in proofs)


def told_angles(name):
    after = comment(name).split('Δ*')[-1]
    return [float(number) for number in re.findall(r'\d\.\d+e-\d', after)]


@pytest.mark.parametrize(
    'name', [name for name in COCO if not name.startswith('rtmdet/')]
)
def test_the_steps_of_the_schedule_are_those_of_the_theory(name):
    lr, steps = next(
        value for pattern, value in STAGES.items() if fnmatch.fnmatch(name, pattern)
    )
    found = [stage for stage in plan(load(name))['stages'] if stage['stage'] >= 0]
    angles = [math.sqrt(2 * 1e-4 * lr * share / (1 + 0.9)) for _, share in steps]
    assert [stage['last_iter'] for stage in found] == [last for last, _ in steps]
    assert [s['angular_update_eq'] for s in found] == pytest.approx(angles, rel=1e-9)
    assert told_angles(name) == pytest.approx(angles, rel=4e-3)


def test_the_angles_of_adamw_are_those_of_the_theory():
    (name,) = (name for name in COCO if name.startswith('rtmdet/'))
    found = plan(load(name))
    flat, cosine = found['stages'][1:]
    begin = math.sqrt(2 * 0.004 * 0.05 * (1 - 0.9) / (1 + 0.9))
    end = begin * math.sqrt(0.05)
    assert found['iters_per_epoch'] == EPOCH_OF_256
    assert flat['angular_update_eq'] == pytest.approx(begin, rel=1e-9)
    assert cosine['angular_update_eq_end'] == pytest.approx(end, rel=1e-3)
    assert flat['last_iter'] == pytest.approx(150 * EPOCH_OF_256, abs=1)
    assert told_angles(name) == pytest.approx([begin, end], rel=4e-3)


def test_rescaling_configs_are_told_to_reach_equilibrium():
    for name in COCO:
        if 'rescale' in name:
            assert plan(load(name))['exit_code'] == 0


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn/mask-rcnn_r50_fpn_syncbn-all_1x_coco.py',
        'retinanet/retinanet_r50_fpn_gn-all_scratch_360k-rescale_coco.py',
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    ],
)
def test_an_environment_variable_tells_where_coco_is(name, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/sets/coco')
    config = Config.fromfile(ROOT / 'configs' / name)
    for part in ('train', 'val', 'test'):
        assert config[f'{part}_dataloader'].dataset.data_root == '/sets/coco/'
    for part in ('val', 'test'):
        file = '/sets/coco/annotations/instances_val2017.json'
        assert config[f'{part}_evaluator'].ann_file == file


# ------------------------------------------------------------------------- training

ITERATIONS = ('train_cfg.max_iters=2', 'train_cfg.val_interval=2')
RUNS = {
    'mask_rcnn/mask-rcnn_r50_fpn_syncbn-all_scratch_360k_coco.py': 'mask-rcnn_360k',
    'mask_rcnn/mask-rcnn_r50_fpn_gn-all_scratch_360k_coco.py': 'mask-rcnn_360k',
    'mask_rcnn/mask-rcnn_r50_fpn_frozen-bn_1x_coco.py': 'mask-rcnn_1x',
    'retinanet/retinanet_r50_fpn_syncbn-all_scratch_360k_coco.py': 'retinanet_360k',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': 'rtmdet',
}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(folder, 4, 2, 128, 0)
    return folder


def options(kind, shapes):
    """The documented options, for a data set elsewhere."""
    text = (ROOT / 'configs/shapes' / f'{kind}.txt').read_text()
    return text.replace('data/shapes', str(shapes)).split()


@pytest.mark.slow
@pytest.mark.parametrize('name', RUNS)
def test_it_trains_on_shapes_with_only_data_and_sizes_changed(name, shapes, tmp_path):
    kind = RUNS[name]
    length = ITERATIONS if kind.endswith('360k') else ['train_cfg.max_epochs=1']
    command = [sys.executable, '-W', 'ignore', 'tools/train.py', f'configs/{name}']
    command += ['--work-dir', str(tmp_path), '--cfg-options']
    done = subprocess.run(
        [*command, *options(kind, shapes), *length],
        cwd=ROOT,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # After two iterations a RetinaNet finds nothing yet, and has no score.
    assert re.search(r'(Iter|Epoch)\(val\)', done.stdout + done.stderr)
    records = read_records(tmp_path)
    facts = [records.metadata['layers'][layer] for layer in records.layers()]
    invariant = sum(fact['invariant'] for fact in facts)
    told = re.search(r'Expect: (\d+) scale-invariant weights', comment(name))
    assert invariant == int(told[1])
    assert len(facts) == (invariant or 54)
    assert sum(dict(records.by_layer())[records.layers()[0]]['count']) == 2
