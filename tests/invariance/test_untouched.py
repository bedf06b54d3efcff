"""Whatever wraps a forward or misuses the model, the model stays as it was."""

import functools
import random
import weakref

import pytest
import torch
from invariants import assert_same, snapshot, squares
from models import conv, images
from torch import nn
from torch.utils.checkpoint import checkpoint

from smd_mmdet.invariance import (
    find_dependents,
    find_scale_invariant,
    verify_scale_invariance,
)
from smd_mmdet.invariance.replica import copied
from smd_mmdet.invariance.undisturbed import TouchedWarning, kept_data

NAMES = ['0.weight', '2.0.weight', '3.weight']
TRUE = [True, True, False]


def plain():
    torch.manual_seed(0)
    block = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(conv(into=3), nn.BatchNorm2d(8), block, conv(True))


def counted_in_a_variable(model):
    forward, calls = model[2].forward, 0

    def counting(x):
        nonlocal calls
        calls += 1
        return forward(x)

    model[2].forward = counting
    return lambda: calls


def counted_in_an_attribute(model):
    @functools.wraps(model[2].forward)
    def counting(*args):
        counting.calls += 1
        counting.seen.append(type(args[0]))
        return counting.__wrapped__(*args)

    counting.calls, counting.seen = 0, []
    model[2].forward = counting
    return lambda: (counting.calls, len(counting.seen))


class Counting:
    def __init__(self, forward):
        self.forward, self.calls = forward, 0
        self.generator, self.random = torch.Generator(), random.Random(0)

    def __call__(self, x):
        self.calls += 1
        torch.rand(1, generator=self.generator), self.random.random()
        return self.forward(x)


def counted_by_an_object(model):
    counting = model[2].forward = Counting(model[2].forward)

    def state():
        drawn = counting.generator.get_state().tolist(), counting.random.getstate()
        return counting.calls, drawn

    return state


def kept_weakly(model):
    block = weakref.ref(model[2])

    def forward(reference, x):
        return nn.Sequential.forward(reference(), x)

    model[2].forward = functools.partial(forward, block)


def run_from_a_closed_over_model(model):
    model[2].forward = lambda x: nn.Sequential.forward(model[2], x)


def run_from_a_global_variable(model):
    global block
    block = model[2]
    model[2].forward = lambda x: nn.Sequential.forward(block, x)


def watched_by_hooks(model):
    seen, sizes = [], {}
    model[2].register_forward_hook(lambda module, x, y: seen.append(y.shape))
    model[1].register_forward_pre_hook(lambda module, x: sizes.update(x=len(sizes)))
    return lambda: (len(seen), sizes.copy())


def compiled(model):
    model[2].compile(backend='eager')


def compiled_forward(model):
    model[2].forward = torch.compile(model[2].forward, backend='eager')


def checkpointed_by_a_partial(model):
    model[2].forward = functools.partial(
        checkpoint, model[2].forward, use_reentrant=False
    )


def checkpointed_by_mmengine(model):
    activation = pytest.importorskip('mmengine.runner.activation_checkpointing')
    activation.turn_on_activation_checkpointing(model, ['2', '1'])


def fused_for_evaluation_by_mmengine(model):
    fused = pytest.importorskip('mmengine.model.efficient_conv_bn_eval')
    fused.turn_on_efficient_conv_bn_eval(model, '2')


def _checkpointed_forward(forward, reference, offload, *args):
    raise AssertionError('a checkpoint that the graph does not show')


def checkpointed_by_fairscale(model):
    """As fairscale.nn.checkpoint_wrapper does it."""
    model[2].forward = functools.partial(
        _checkpointed_forward, type(model[2]).forward, weakref.ref(model[2]), False
    )


WRAPPERS = [
    counted_in_a_variable,
    counted_in_an_attribute,
    counted_by_an_object,
    kept_weakly,
    run_from_a_closed_over_model,
    watched_by_hooks,
    compiled,
    compiled_forward,
    checkpointed_by_a_partial,
    checkpointed_by_mmengine,
    checkpointed_by_fairscale,
    fused_for_evaluation_by_mmengine,
    run_from_a_global_variable,
]


@pytest.mark.filterwarnings('error::smd_mmdet.invariance.undisturbed.TouchedWarning')
@pytest.mark.parametrize('wrap', WRAPPERS)
def test_a_wrapped_forward_is_judged_as_without_and_left_alone(wrap):
    stock, x = plain(), images(size=8)
    dependents = find_dependents(stock, x)
    model = plain()
    state = wrap(model) or (lambda: None)
    before, own = snapshot(model), state()
    judged = {e.name: e.invariant for e in find_scale_invariant(model, x)}
    assert [judged[name] for name in NAMES] == TRUE
    assert find_dependents(model, x) == dependents
    assert_same(before, snapshot(model))
    proofs = verify_scale_invariance(model, squares(x), NAMES)
    assert [proofs[name].verdict for name in NAMES] == TRUE
    assert 'float32' not in proofs['0.weight'].reason
    assert_same(before, snapshot(model))
    assert state() == own


@pytest.mark.filterwarnings('error::smd_mmdet.invariance.undisturbed.TouchedWarning')
@pytest.mark.parametrize('name', ['weight_norm', 'spectral_norm'])
def test_parametrized_weights_are_left_alone(name):
    """Spectral norm iterates on a buffer of its own at every pass."""
    model, x = plain(), images(size=8)
    getattr(nn.utils.parametrizations, name)(model[2][0])
    before = snapshot(model)
    find_scale_invariant(model, x)
    proofs = verify_scale_invariance(model, squares(x), ['0.weight'])
    assert proofs['0.weight'].verdict is True
    assert_same(before, snapshot(model))


class Checkpointed(nn.Module):
    """A block in the middle, or the first layer, behind torch's checkpoint."""

    def __init__(self, reentrant, first=False):
        super().__init__()
        self.stem = nn.Sequential(conv(into=3), nn.BatchNorm2d(8))
        self.block = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.reentrant, self.first = conv(True), reentrant, first

    def forward(self, x):
        def run(part, x):
            return checkpoint(part, x, use_reentrant=self.reentrant)

        x = run(self.stem, x) if self.first else self.stem(x)
        return self.head(run(self.block, x))


@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.parametrize('first', [True, False])
def test_layers_behind_a_checkpoint_are_judged_as_training_trains_them(
    reentrant, first
):
    """A reentrant checkpoint trains nothing if no gradient reaches its inputs."""
    torch.manual_seed(0)
    model, x = Checkpointed(reentrant, first), images(size=8)
    found = {e.name: e.invariant for e in find_scale_invariant(model, x)}
    proofs = verify_scale_invariance(model, squares(x), found)
    squares(x)(model).backward()
    for name in ('stem.0.weight', 'block.0.weight'):
        trained = model.get_parameter(name).grad is not None
        assert found[name] == trained
        assert proofs[name].verdict is (True if trained else None)
    assert found['block.0.weight'] is not (reentrant and first)


def test_all_of_a_backbone_behind_checkpoints_is_found():
    from models import resnet

    activation = pytest.importorskip('mmengine.runner.activation_checkpointing')
    model, other = resnet(), resnet()
    stages = [f'layer{i}' for i in (1, 2, 3, 4)]
    activation.turn_on_activation_checkpointing(other, stages)
    x = images(size=64)
    expected = find_scale_invariant(model, x)
    assert find_scale_invariant(other, x) == expected
    assert sum(entry.invariant for entry in expected) == 20


def misused(model):
    """A loss that does to the model all that a loss should not."""
    loss = squares(images(size=8))
    outside = model[3].bias

    def misuse(copy):
        model[1].running_mean.add_(1)
        model[1].num_batches_tracked += 1
        model[2].eval()
        model[2].register_forward_hook(print)
        (outside * 2).sum().backward()
        model[0].weight.data.mul_(2)
        model[2][0].weight.requires_grad_(False)
        model.calls = 7
        torch.rand(1), random.random()
        return loss(copy)

    return misuse


@pytest.mark.parametrize('gradients', [False, True])
def test_what_a_loss_does_to_the_model_itself_is_put_back_and_told(gradients):
    model = plain()
    if gradients:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
    before = snapshot(model)
    with pytest.warns(TouchedWarning, match=r'put back: .* and \d+ more') as told:
        proofs = verify_scale_invariance(model, misused(model), NAMES)
    assert_same(before, snapshot(model))
    assert [proofs[name].verdict for name in NAMES] == TRUE
    assert len(told) == 1


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (lambda m: m[1].running_mean.data.add_(1), '1.running_mean'),
        (lambda m: setattr(m[1], 'running_var', torch.zeros(8)), '1.running_var'),
        (lambda m: m.double(), '0.weight'),
        (lambda m: m[3].bias.data.fill_(torch.nan), '3.bias'),
        (lambda m: m[2].eval(), '2.training'),
        (lambda m: m[2][0].requires_grad_(False), '2.0.weight.requires_grad'),
        (lambda m: m[0].weight.square().sum().backward(), '0.weight.grad'),
        (lambda m: m.append(nn.ReLU()), '4'),
        (lambda m: setattr(m[2], 'forward', print), '2.forward'),
    ],
)
def test_each_change_of_the_model_is_named(change, named):
    model, loss = plain(), squares(images(size=8))
    before = snapshot(model)

    def misuse(copy):
        value = loss(copy)
        change(model)
        return value

    with pytest.warns(TouchedWarning, match=rf'put back: (.*, )?{named}\b'):
        verify_scale_invariance(model, misuse, ['0.weight'])
    assert_same(before, snapshot(model))


def test_a_loss_that_fails_has_changed_nothing_either():
    model = plain()
    before = snapshot(model)

    def misuse(copy):
        model[1].running_mean.add_(1)
        raise ValueError('no loss')

    with (
        pytest.warns(TouchedWarning, match=r'1\.running_mean'),
        pytest.raises(ValueError, match='no loss'),
    ):
        verify_scale_invariance(model, misuse, NAMES)
    assert_same(before, snapshot(model))


def test_a_weight_that_a_forward_moves_is_put_back():
    """A momentum encoder follows its twin whenever the loss is computed."""

    class Following(nn.Module):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = conv(into=3), conv(into=3)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            with torch.no_grad():
                self.teacher.weight.lerp_(self.student.weight, 0.1)
            return self.norm(self.student(x)) - self.teacher(x).detach()

    torch.manual_seed(0)
    model = Following()
    before = snapshot(model)
    find_scale_invariant(model, images(size=8))
    proofs = verify_scale_invariance(model, squares(images(size=8)), ['student.weight'])
    assert_same(before, snapshot(model))
    assert proofs['student.weight'].verdict is False


def test_a_model_that_cannot_be_copied_is_refused():
    class Uncopyable:
        def __init__(self, model):
            self.model = model

        def __deepcopy__(self, memo):
            raise TypeError('cannot pickle this')

    model = plain()
    keeper = Uncopyable(model)
    model[2].forward = lambda x: nn.Sequential.forward(keeper.model[2], x)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r'cannot be copied: .*lambda.* Uncopyable'):
        verify_scale_invariance(model, squares(images(size=8)), NAMES)
    assert_same(before, snapshot(model))


def test_variables_that_functions_share_are_shared_by_their_copies():
    model = plain()
    counts, calls = [], 0

    def count(module, x):
        nonlocal calls
        calls += 1

    def note(module, x, y):
        counts.append(calls)

    model[2].register_forward_pre_hook(count)
    model[2].register_forward_hook(note)
    replica = copied(model)
    for _ in range(3):
        replica(images(size=8))
    [noted] = replica[2]._forward_hooks.values()
    assert noted.__closure__[1].cell_contents == [1, 2, 3]
    assert (calls, counts) == (0, [])


def test_data_that_keep_state_are_as_before():
    class Mixed:
        """Keeps images seen, as a mosaic does, and draws from generators of its own."""

        def __init__(self):
            self.cache, self.generator = [], torch.Generator()
            self.random = random.Random(0)

        def __getitem__(self, index):
            self.cache.append(index)
            return self.random.random(), float(torch.rand(1, generator=self.generator))

    class Wrapping:
        def __init__(self):
            self.dataset = Mixed()

    data, twin = Wrapping(), Wrapping()
    with kept_data(data):
        _ = data.dataset[0], data.dataset[1]
    assert data.dataset.cache == []
    assert data.dataset[2] == twin.dataset[2]
