"""The controller where only a GPU can tell: when it waits, and mixed precision."""

import numpy as np
import pytest
import torch
from torch import nn
from truth import batch, small_net, weights_of

from smd_mmdet.control import AngularUpdateController

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='there is no GPU that torch sees'
)
WANTED, EVERY, STEPS = 8e-3, 10, 200
NAMES = ['0.weight', '3.weight']
# Too large a scale for float16 at first, so that steps are skipped until it fits.
SCALE = 2.0**24


class Loop:
    """Steps of a small net on the device, whose angles are taken in float64."""

    def __init__(self, dtype):
        self.net = small_net().cuda()
        half = dtype is torch.float16
        # Not fused there: torch's own leaves the momentum uninitialized where the
        # first step is skipped, and what lies there may be NaN.
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=0.05,
            momentum=0.9,
            weight_decay=1e-3,
            fused=not half,
        )
        self.dtype = dtype
        self.scaler = torch.amp.GradScaler('cuda', init_scale=SCALE, enabled=half)
        self.batches = [[t.cuda() for t in batch(step)] for step in range(20)]
        self.angles = []

    def step(self, number):
        images, labels = self.batches[number % len(self.batches)]
        before = [w.detach().double() for w in weights_of(self.net).values()]
        self.optimizer.zero_grad()
        with torch.autocast('cuda', self.dtype, enabled=self.dtype != torch.float32):
            loss = nn.functional.cross_entropy(self.net(images).float(), labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.angles.append(
            torch.stack(
                [
                    2 * torch.asin((_unit(w.detach().double()) - _unit(v)).norm() / 2)
                    for w, v in zip(weights_of(self.net).values(), before, strict=True)
                ]
            )
        )

    def outputs(self):
        """In float64, in evaluation."""
        images = self.batches[0][0].double()
        net = small_net(dtype=torch.float64).cuda()
        net.load_state_dict(self.net.state_dict())
        with torch.no_grad():
            return net.eval()(images)


def _unit(weight):
    return weight / weight.norm()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_the_wanted_angle_is_had_in_every_precision(dtype):
    loop = Loop(dtype)
    controller = AngularUpdateController(
        loop.net, loop.optimizer, NAMES, WANTED, every=EVERY
    )
    controls = 0
    for number in range(STEPS):
        loop.step(number)
        before = loop.outputs()
        if controller.step():
            controls += 1
            apart = (loop.outputs() - before).norm() / before.norm()
            # The weights are float32, and batch norm has its ε.
            assert float(apart) < 1e-3
    assert controller.fault is None and controls >= 3
    angles = torch.stack(loop.angles).cpu().numpy()
    stepped = angles.any(1)
    assert stepped.all() == (dtype is not torch.float16)
    late = np.sqrt(np.square(angles[STEPS // 2 :][stepped[STEPS // 2 :]]).mean(0))
    assert late == pytest.approx(WANTED, rel=0.15)


def test_only_a_control_waits_for_the_device():
    loop = Loop(torch.float32)
    controller = AngularUpdateController(
        loop.net, loop.optimizer, NAMES, WANTED, every=EVERY
    )
    waited = []
    for number in range(60):
        loop.step(number)
        torch.cuda._sleep(40_000_000)  # keeps the device behind the host
        mark = torch.cuda.Event()
        mark.record()
        controller.step()
        waited.append(mark.query())
    assert controller.fault is None
    assert np.flatnonzero(waited).tolist() == list(range(EVERY - 1, 60, EVERY))
