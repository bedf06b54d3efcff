"""Small runs: what they have in common, what is kept of them, and how they go on."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from studies.control import cost, training
from studies.control.network import Images, read_images
from studies.control.runs import BASE
from studies.control.training import Training, read_result, train, train_question

STEPS = 40


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    # Nothing tells the classes apart, so that there is always something to learn.
    pixels = random.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    return Images(pixels, np.arange(40) % 2)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(training, 'STEPS', STEPS)
    monkeypatch.setattr(training, 'WINDOW', 20)


def first_weights(run):
    return Training(run, 2, seed=3).model[0].weight.detach()


def test_a_seed_is_the_same_directions_and_images(images, tmp_path, monkeypatch):
    larger = replace(BASE, norms=3.0, weight_decay=0.1)
    torch.testing.assert_close(first_weights(larger), 3 * first_weights(BASE))
    seen = []
    step = Training.step

    def watched(self, number, batch, labels):
        seen.append(batch)
        return step(self, number, batch, labels)

    monkeypatch.setattr(Training, 'step', watched)
    monkeypatch.setattr(training, 'STEPS', 5)
    for run in (BASE, larger):
        train(replace(run, name='other'), images, images, 3, tmp_path)
    assert all(map(torch.equal, seen[:5], seen[5:]))
    assert not torch.equal(seen[0], seen[1])


def test_the_rest_is_trained_alike_but_where_it_is_told():
    """Only the convolutions have another optimizer, rate and decay."""
    run = replace(BASE, lr=0.3, optimizer='adamw')
    weights, rest = Training(run, 2, 0).optimizers
    assert sum(p.numel() for p in weights.param_groups[0]['params']) == 23_472
    assert isinstance(rest, torch.optim.SGD)
    group = rest.param_groups[0]
    assert group['lr'] == pytest.approx(BASE.lr * BASE.rate(0))
    assert group['weight_decay'] == 0
    (both,) = Training(replace(run, whole=True), 2, 0).optimizers
    assert [g['lr'] for g in both.param_groups] == [run.lr * run.rate(0)] * 2
    assert both.param_groups[1]['weight_decay'] == 0


def test_a_drop_rescales_once(short):
    run = replace(BASE, shape='drop', control='rescale')
    rescaled = Training(run, 2, 0)
    plain = Training(replace(run, control=''), 2, 0)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    drop = next(t for t in range(500) if run.rate(t + 1) < run.rate(t))
    for step in (drop - 1, drop, drop + 1):
        for each in (rescaled, plain):
            each.step(step, images, labels)
        norms = [
            each.model[0].weight.detach().norm().item() for each in (rescaled, plain)
        ]
        factor = 1 if step < drop else 10**-0.25
        assert norms[0] / norms[1] == pytest.approx(factor, rel=1e-2)


def test_a_replay_has_the_angles_of_the_reference(images, short, tmp_path):
    runs = [BASE, replace(BASE, name='far', norms=2.0)]
    runs.append(replace(runs[1], name='near', control='replay'))
    found = [train(run, images, images, 0, tmp_path) for run in runs]
    reference, far, near = (np.array(each['angles'])[1] for each in found)
    # Twice the norm is a quarter of the angle at first; the control begins with this
    # second window.
    assert np.median(far / reference) < 0.6
    assert 0.6 < np.median(near / reference) < 1.6


def test_what_is_done_is_not_trained_again(tmp_path, images, short, monkeypatch):
    for split in ('train', 'val'):
        for number, (picture, label) in enumerate(
            zip(images.images.numpy(), images.labels.tolist(), strict=True)
        ):
            folder = tmp_path / 'data' / split / f'class{label}'
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{number}.png'), picture.transpose(1, 2, 0))
    read = read_images(tmp_path / 'data' / 'train')
    for one, label in zip(read.images, read.labels, strict=True):
        same = (images.images == one).flatten(1).all(1).nonzero()
        assert images.labels[same[0]] == label
    other = replace(BASE, name='other', weight_decay=0.1)
    monkeypatch.setattr(training, 'FOLDERS', {'tiny': tmp_path / 'data'})
    monkeypatch.setattr(training, 'QUESTIONS', {'all': [BASE, other]})
    monkeypatch.setattr(training, 'STEPS', 21)
    trained = []

    def noted(run, *rest):
        trained.append(run.name)
        return train(run, *rest)

    monkeypatch.setattr(training, 'train', noted)
    folder = tmp_path / 'runs'
    train_question('all', 'tiny', 0, folder)
    train_question('all', 'tiny', 0, folder)
    assert trained == ['reference', 'other']
    (folder / 'other.json').unlink()
    train_question('all', 'tiny', 0, folder)
    assert trained[2:] == ['other']
    # Another run under the old name is another run.
    changed = replace(other, weight_decay=0.2)
    assert read_result(folder, changed) is None
    result = read_result(folder, other)
    assert len(result['losses']) == 21
    assert result['ends'] == [20, 21]
    assert result == json.loads((folder / 'other.json').read_text())
    assert not list(folder.glob('.*.json'))


def test_a_control_that_stops_is_no_result(monkeypatch):
    run = Training(BASE.at_angle(0.01), 2, 0)
    run.controller.fault = RuntimeError('broken')
    with pytest.raises(RuntimeError, match='broken'):
        run.finish()


def test_the_cost_is_that_of_turns_side_by_side():
    found = cost.measure(seed=0, rounds=1)
    assert [len(found[kind]) for kind in cost.KINDS] == [1, 1, 1]
    assert min(min(times) for times in found.values()) > 0
    known = {'plain': [2.0, 4.0], 'controlled': [3.0, 4.0]}
    assert cost.ratios(known, 'controlled').tolist() == [1.5, 1.0]
