"""The schedule that a run takes to be ahead of it."""

import math
from types import SimpleNamespace

import numpy as np
from schedules import config_by_iteration

from smd_mmdet.engine.rates import schedule_of


def test_a_schedule_ahead_begins_at_the_rate_that_auto_scale_lr_makes():
    """A cosine ends at its own eta_min, whatever the rate that it begins with."""
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=19, eta_min=0.01)
    runner = SimpleNamespace(
        cfg=config_by_iteration([cosine], 20),
        max_iters=20,
        train_dataloader=DataLoader(batch_size=3),
        train_loop=None,
        world_size=2,
        auto_scale_lr=dict(enable=True, base_batch_size=4),
    )
    first = 0.05 * 2 * 3 / 4
    share = [(1 + math.cos(math.pi * t / 19)) / 2 for t in range(20)]
    expected = 0.01 + (first - 0.01) * np.array(share)
    np.testing.assert_allclose(schedule_of(runner)[0], expected, rtol=1e-9)
    runner.auto_scale_lr['enable'] = False
    assert schedule_of(runner)[0][0] == 0.05


class DataLoader(SimpleNamespace):
    def __len__(self):
        return 5
