"""Batches of noise for any model of MMEngine."""

import numpy as np
import pytest
import torch
from models import mask_rcnn
from tiny import TinyNet
from torch import nn

from smd_mmdet.invariance.sample_inputs import (
    comes_from,
    forward_model,
    model_loss,
    sample_inputs,
    sample_sizes,
)


def test_a_detector_gets_boxes_masks_and_proposals():
    model = mask_rcnn()
    assert comes_from(model, 'mmdet') and sample_sizes(model)[0] == 128
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    data = sample_inputs(model, size=64)
    again = sample_inputs(model, size=64)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state[1] == np.random.get_state()[1]).all()
    assert [tuple(image.shape) for image in data['inputs']] == [(3, 64, 64)] * 2
    for one, other in zip(data['inputs'], again['inputs'], strict=True):
        assert torch.equal(one, other)
    for sample in data['data_samples']:
        assert len(sample.gt_instances.bboxes) == len(sample.gt_instances.masks) == 3
        assert len(sample.proposals) > 3
    before = [image.clone() for image in data['inputs']]
    assert model_loss(model, data, economical=True).requires_grad
    for one, other in zip(before, data['inputs'], strict=True):
        assert torch.equal(one, other)


def test_any_other_model_gets_images_and_labels():
    model = TinyNet()
    assert not comes_from(model, 'mmdet')
    images, labels = sample_inputs(model, size=32, batch_size=3)
    assert images.shape == (3, 3, 32, 32) and labels.tolist() == [0, 0, 0]
    assert forward_model(model, notes := []).requires_grad
    assert notes == []


def test_a_loss_that_fails_is_told_and_the_outputs_stand_for_it():
    class Broken(TinyNet):
        def forward(self, images, labels, mode='tensor'):
            if mode == 'loss':
                raise KeyError('no\nsuch key')
            return super().forward(images, labels, mode)

    outputs = forward_model(Broken(), notes := [])
    assert isinstance(outputs, torch.Tensor)
    [note] = notes
    assert note == 'judged by the raw outputs, the loss failed: KeyError: no such key'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(size=0), 'size must be a positive multiple of 32, got 0'),
        (dict(size=100), 'size must be a positive multiple of 32, got 100'),
        (dict(batch_size=0), 'batch_size must be >= 1, got 0'),
    ],
)
def test_sizes_that_no_model_takes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample_inputs(nn.Identity(), **options)
