"""A config that follows a run: what is written, that it trains, and that it follows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from tiny import SCALE_INVARIANT, log_of, rows_of, tiny_config, train

from smd_mmdet.cli import main
from smd_mmdet.config.load import load_config
from smd_mmdet.transfer import transfer

WINDOW = 20


def dumped(folder, name='base.py', **kwargs):
    """The tiny config as a file, without anything of ours."""
    changes = {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor'}
    config = tiny_config(folder / 'work', **kwargs)
    config.merge_from_dict(changes)
    config.pop('work_dir')
    config.pop('experiment_name')
    path = folder / name
    config.dump(path)
    return path


# Steps so small that gradients are much the same from one control to the next.
STEADY = {
    'param_scheduler': [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10)
    ],
    'optim_wrapper.optimizer.lr': 0.003,
    'train_dataloader.batch_size': 16,
}


@pytest.fixture(scope='module')
def followed(tmp_path_factory):
    """The folder of a run with records."""
    folder = tmp_path_factory.mktemp('followed') / 'a'
    train(tiny_config(folder, max_iters=120, hook=dict(window=WINDOW), **STEADY))
    return folder


@pytest.fixture
def base(tmp_path):
    """Another rate, decay and batch size."""
    changes = {
        **STEADY,
        'optim_wrapper.optimizer.lr': 0.009,
        'optim_wrapper.optimizer.weight_decay': 0.02,
        'train_dataloader.batch_size': 32,
    }
    return dumped(tmp_path, max_iters=120, **changes)


def trained(path, work_dir):
    config = load_config(str(path))
    config.work_dir = str(work_dir)
    config.experiment_name = f'transfer-{work_dir.name}'
    return train(config)


def angles(rows, layer):
    """Δ_rms of a layer in each window."""
    rows = rows[rows.layer == layer]
    return np.sqrt(rows.angular_update_mean**2 + rows.angular_update_var).to_numpy()


def test_the_written_config_trains_and_turns_as_the_run_did(
    followed, base, tmp_path, capsys
):
    new = tmp_path / 'new.py'
    assert main(['transfer', str(followed), str(base), '-o', str(new)]) == 0
    told = capsys.readouterr().out
    assert 'not controlled' in told and '32 × 1 × 1 = 32' in told
    log = log_of(trained(new, tmp_path / 'new'))
    assert 'of 2 layers within 10 % of the wanted angular update; median' in log
    trained(with_monitor(base), tmp_path / 'plain')
    rows, plain = rows_of(tmp_path / 'new'), rows_of(tmp_path / 'plain')
    theirs = rows_of(followed)
    for layer in SCALE_INVARIANT:
        wanted = angles(theirs, layer)
        # Windows after the warm-up, which has many controls.
        off = [np.abs(np.log(angles(r, layer) / wanted))[2:] for r in (rows, plain)]
        assert np.median(off[0]) < 0.1 < 0.5 < np.median(off[1])
        ours = rows[rows.layer == layer]
        assert np.allclose(ours.angular_update_wanted, wanted, rtol=1e-12)


def with_monitor(base):
    path = base.with_name('plain.py')
    path.write_text(
        f'_base_ = [{base.name!r}]\ncustom_hooks = [dict(type="SMDHook", '
        f'window={WINDOW})]\n'
    )
    return path


def test_what_is_there_already_is_kept_and_an_older_rescaling_replaced(
    followed, tmp_path
):
    base = dumped(tmp_path)
    config = Config.fromfile(base)
    config.custom_hooks = [
        dict(type='SMDHook', window=7),
        dict(type='SMDRescaleHook', continuous=True, exclude=['layers.3']),
        dict(type='EMAHook'),
    ]
    config.custom_imports = dict(imports=['tiny'], allow_failed_imports=False)
    config.dump(base)
    found = transfer(followed, str(base), tmp_path / 'new.py')
    new = load_config(found['output'])
    follows = dict(run=str(followed), scale_time=True)
    assert [hook.to_dict() for hook in new.custom_hooks] == [
        dict(type='SMDHook', window=7),
        dict(type='EMAHook'),
        dict(
            type='SMDRescaleHook', angular_update=follows, exclude=['layers.3'],
            every=20,
        ),
    ]  # fmt: skip
    assert new.custom_imports.imports == ['tiny', 'smd_mmdet']
    assert new.optim_wrapper.constructor == 'SMDOptimWrapperConstructor'
    # All else is the base's.
    for key in ('model', 'train_cfg', 'train_dataloader', 'param_scheduler'):
        assert new[key] == config[key]
    assert new.optim_wrapper.optimizer == config.optim_wrapper.optimizer
    assert found['layers']['own'] == ['layers.0.weight']
    assert found['layers']['unused'] == ['layers.3.weight']
    assert any('shortened to the 60' in line for line in found['done'])


def test_the_figures_of_both_sides(followed, base, tmp_path):
    found = transfer(followed, str(base), tmp_path / 'new.py')
    run, config = found['run_side'], found['config_side']
    assert (run['lr'], config['lr']) == pytest.approx((0.003, 0.009))
    assert (run['weight_decay'], config['weight_decay']) == pytest.approx((5e-3, 0.02))
    assert (run['batch'], config['batch']) == (16, 32)
    assert run['optimizer'] == config['optimizer'] == 'SGD'
    assert run['iterations'] == config['iterations'] == 120
    assert not found['scale_time']
    assert found['layers']['own'] == SCALE_INVARIANT
    # 8·3·9 and 6·8·9 numbers of convolutions; 2·8 + 2·6 of norms, 6·4 + 4 of the head.
    assert found['layers']['controlled_share'] == pytest.approx(648 / (648 + 28 + 28))
    said = ' '.join(found['not_guaranteed'])
    assert '32 images, and 16 in the run' in said and 'median' not in said


def test_a_layer_that_the_run_has_not_follows_the_median(followed, tmp_path):
    base = dumped(tmp_path, max_iters=240)
    text = base.read_text().replace("type='TinyNet'", "type='WideNet'")
    base.write_text(text.replace("'tiny'", "'tiny', 'wide_net'"))
    found = transfer(followed, str(base), tmp_path / 'new.py')
    assert found['layers']['own'] == ['layers.0.weight']
    assert found['layers']['median'] == ['more.3.weight']
    said = ' '.join(found['done'] + found['not_guaranteed'])
    assert '1 of 2 weights are not in the run' in said
    assert '120 recorded iterations are stretched to the 240' in said
    assert '2 times the Σ Δ²' in said


def test_a_config_that_imports_its_bases_is_copied(followed, base, tmp_path):
    whole = Config.fromfile(base)
    whole.custom_hooks = [dict(type='SMDRescaleHook'), dict(type='EMAHook')]
    whole.dump(base)
    modern = tmp_path / 'modern.py'
    modern.write_text(
        'from mmengine.config import read_base\n'
        'from mmengine.hooks import EMAHook\n'
        'with read_base():\n'
        '    from .base import *\n'
        'custom_hooks.append(dict(type=EMAHook, begin_iter=7))\n'
    )
    found = transfer(followed, str(modern), tmp_path / 'new.py')
    new = load_config(found['output'])
    kinds = [hook.type.rpartition('.')[2] for hook in new.custom_hooks]
    assert kinds == ['EMAHook', 'EMAHook', 'SMDHook', 'SMDRescaleHook']
    assert new.custom_hooks[1].begin_iter == 7
    assert new.custom_hooks[3].angular_update.run == str(followed)
    assert new.optim_wrapper.optimizer == whole.optim_wrapper.optimizer
    assert 'copies' in found['done'][0]


@pytest.fixture(autouse=True)
def wide_net(tmp_path, monkeypatch):
    """A module with a model whose second convolution has another name."""
    folder = tmp_path / 'modules'
    folder.mkdir()
    (folder / 'wide_net.py').write_text(
        'from mmengine.registry import MODELS\n'
        'from tiny import TinyNet\n'
        'from torch import nn\n'
        '@MODELS.register_module(force=True)\n'
        'class WideNet(TinyNet):\n'
        '    def __init__(self):\n'
        '        super().__init__()\n'
        '        self.more = self.layers[3:]\n'
        '        self.layers = self.layers[:3]\n'
        '    def forward(self, images, labels, mode="tensor"):\n'
        '        scores = self.more(self.layers(images))\n'
        '        if mode == "loss":\n'
        '            return {"loss": nn.functional.cross_entropy(scores, labels)}\n'
        '        return scores\n'
    )
    monkeypatch.syspath_prepend(str(folder))


def error_of(capsys, *args):
    """The one line that a refused command says."""
    assert main(['transfer', *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count('\n') == 1 and err.startswith('smd transfer: error: ')
    return err


def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    followed, base, tmp_path, capsys
):
    new = tmp_path / 'new.py'
    here = tmp_path / 'out'
    here.mkdir()

    def refused(run=followed, config=base, out=new):
        return error_of(capsys, run, config, '-o', out)

    before = sorted(tmp_path.iterdir())
    assert 'smd' in refused(run=here)
    assert 'no such config' in refused(config=tmp_path / 'none.py')
    assert 'there is no folder' in refused(out=tmp_path / 'none' / 'new.py')
    assert 'ends in .py' in refused(out=tmp_path / 'new')
    assert 'itself' in refused(out=base)
    child = tmp_path / 'child.py'
    for name, bases in ((tmp_path / 'middle.py', 'base.py'), (child, 'middle.py')):
        name.write_text(f'_base_ = [{bases!r}]\n')
    inherited = error_of(capsys, followed, child, '-o', base, '--force')
    assert 'the config inherits it' in inherited
    before = sorted(tmp_path.iterdir())
    text = base.read_text()
    base.write_text(
        text.replace("type='SGD'", "type='Rprop'")
        .replace('momentum=0.9, ', '')
        .replace(', weight_decay=0.02', '')
    )
    assert 'optim_wrapper.optimizer' in refused()
    base.write_text(text.replace("type='TinyNet'", "norm='none', type='TinyNet'"))
    assert 'no scale-invariant weight' in refused()
    base.write_text(text)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_is_there_is_written_over_with_force_only(
    followed, base, tmp_path, capsys
):
    new = tmp_path / 'new.py'
    new.write_text('mine = 1\n')
    args = [followed, base, '-o', new]
    assert '--force' in error_of(capsys, *args)
    assert new.read_text() == 'mine = 1\n'
    assert main(['transfer', *map(str, args), '--force', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['output'] == str(new) and found['done']
    assert 'SMDRescaleHook' in new.read_text()


def test_a_config_that_would_write_to_the_followed_folder(
    followed, tmp_path, monkeypatch
):
    base = dumped(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(followed, 'work_dirs/a')
    with pytest.raises(ValueError, match=r'-o a\.py: .*another name'):
        transfer('work_dirs/a', 'base.py', 'a.py')
    base.write_text(base.read_text() + "\nwork_dir = './work_dirs/a'\n")
    transfer('work_dirs/a', 'base.py', 'b.py')
    assert Path(load_config('b.py').work_dir) == Path('work_dirs/b')


def test_a_config_of_the_package_is_named_as_the_user_names_it(
    followed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = 'smd_mmdet::shapes/mask-rcnn_r18_fpn_shapes.py'
    found = transfer(followed, name, 'new.py', iters_per_epoch=100)
    text = Path('new.py').read_text()
    assert f'_base_ = [{name!r}]' in text
    assert found['layers']['own'] == []
    whole = load_config(name)
    assert load_config('new.py').model == whole.model
