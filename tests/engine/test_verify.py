"""The proof within a run leaves no trace, whatever a config puts around layers."""

import pytest
import torch
from tiny import SCALE_INVARIANT, log_of, rows_of, tiny_config, train, weights

from smd_mmdet.engine.verify import batches

CHECKPOINTED = dict(activation_checkpointing=['layers.3', 'layers.4'])
# How this torch is told which of its checkpoints to use is MMEngine's affair.
pytestmark = pytest.mark.filterwarnings('ignore:.*use_reentrant parameter')


def assert_bit_equal(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize('ours', [True, False], ids=['constructor', 'stock'])
def test_layers_behind_checkpoints_are_proved_and_measured_without_a_trace(
    tmp_path, ours
):
    stock = tiny_config(tmp_path / 'stock', max_iters=20, **CHECKPOINTED)
    del stock.optim_wrapper['constructor']
    watched = tiny_config(
        tmp_path / 'watched', max_iters=20, hook=dict(window=5), **CHECKPOINTED
    )
    if not ours:
        del watched.optim_wrapper['constructor']
    run = train(watched)
    assert_bit_equal(train(stock), run)
    # A checkpoint computes its layers twice, and counts twice.
    assert weights(run)['layers.4.num_batches_tracked'] == 40
    assert sorted(set(rows_of(tmp_path / 'watched')['layer'])) == SCALE_INVARIANT
    assert 'proved' not in log_of(run) and 'put back' not in log_of(run)


def test_layers_behind_checkpoints_are_rescaled_as_others_are(tmp_path):
    done = []
    for name, options in (('plain', {}), ('checkpointed', CHECKPOINTED)):
        config = tiny_config(tmp_path / name, max_iters=42, **options)
        config.custom_hooks = [dict(type='SMDRescaleHook')]
        run = train(config)
        done.append(next(h.history for h in run.hooks if hasattr(h, 'history')))
    assert done[0] == done[1] and len(done[0]) > 0


def test_a_loss_that_changes_the_model_is_told_in_the_log(tmp_path):
    from mmengine.hooks import Hook
    from mmengine.registry import MODELS
    from tiny import TinyNet

    live = []

    @MODELS.register_module(force=True)
    class Meddling(TinyNet):
        def forward(self, *args, **kwargs):
            if live and self is not live[0]:
                live[0].layers[4].running_mean.add_(1)
            return super().forward(*args, **kwargs)

    class Remember(Hook):
        priority = 'VERY_HIGH'

        def before_train(self, runner):
            live.append(runner.model)

    def config(name, **options):
        changes = {'model.type': 'Meddling', 'max_iters': 10}
        return tiny_config(tmp_path / name, **options, **changes)

    stock = train(config('stock'))
    run = train(config('watched', hook=dict(window=5)), Remember())
    assert_bit_equal(stock, run)
    assert 'put back: layers.4.running_mean' in log_of(run)


def test_data_that_are_looked_at_draw_as_without(tmp_path):
    from mmengine.registry import DATASETS
    from tiny import Noise

    @DATASETS.register_module(force=True)
    class Drawing(Noise):
        def __init__(self):
            self.generator = torch.Generator()

        def __getitem__(self, index):
            _, label = super().__getitem__(index)
            return torch.randn(3, 8, 8, generator=self.generator), label

    changes = {'train_dataloader.dataset.type': 'Drawing', 'max_iters': 10}
    stock = train(tiny_config(tmp_path / 'stock', **changes))
    run = train(tiny_config(tmp_path / 'watched', hook=dict(window=5), **changes))
    assert_bit_equal(stock, run)
    data = run.train_dataloader.dataset
    before = data.generator.get_state()
    assert len(list(batches(run, run.model))) == 1
    assert torch.equal(data.generator.get_state(), before)
