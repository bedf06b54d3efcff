"""Rescaling leaves the function as it is: float64, before against after."""

import copy
import math

import pytest
import torch
from connections import CASES as CONNECTIONS
from models import Block, mask_rcnn, mmdet_module
from rescaling import (
    conv,
    distance,
    draw,
    evaluated,
    frozen,
    images,
    leaves,
    prepare,
    trained,
)
from torch import nn
from torch.nn import functional as F

from smd_mmdet.invariance import find_dependents, find_scale_invariant
from smd_mmdet.rescale import rescale_


def built_conv(kind, *args, **options):
    from mmcv.cnn import build_conv_layer

    return build_conv_layer(dict(type=kind), *args, **options)


def tied_convs():
    first, second = conv(bias=False, into=6), conv(into=6)
    second.weight = first.weight
    return Block(
        lambda m, x: m.n2(m.b(F.relu(m.n1(m.a(F.relu(m.n0(m.stem(x)))))))),
        stem=conv(),
        n0=nn.BatchNorm2d(6),
        a=first,
        n1=nn.BatchNorm2d(6),
        b=second,
        n2=nn.BatchNorm2d(6),
    )


def with_eval_norm():
    """A norm with fixed statistics that reads what is normalized already."""
    model = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6))
    model[3].eval()
    return model


def retina(kind, **options):
    return mmdet_module(
        type=kind,
        num_classes=5,
        in_channels=8,
        feat_channels=8,
        stacked_convs=2,
        norm_cfg=dict(type='BN', requires_grad=True),
        **options,
    )


def pyramid():
    return ([images(8, size) for size in (8, 4, 2)],)


# name: (module, number of invariant weights, inputs)
CASES = {
    'convolution with bias': (lambda: nn.Sequential(conv(), nn.BatchNorm2d(6)), 1),
    'frozen bias': (
        lambda: frozen(nn.Sequential(conv(), nn.BatchNorm2d(6)), '0.bias'),
        1,
    ),
    'several weights before one norm': (
        lambda: nn.Sequential(conv(bias=False), conv(6, 6), nn.BatchNorm2d(6)),
        2,
    ),
    'a bias between two weights': (
        lambda: nn.Sequential(conv(), conv(6, 6), nn.BatchNorm2d(6)),
        1,
    ),
    'depthwise separable': (
        lambda: nn.Sequential(
            conv(), nn.BatchNorm2d(6), nn.ReLU(),
            conv(6, 6, groups=6, bias=False), conv(6, 8, 1), nn.BatchNorm2d(8),
        ),
        3,
    ),
    'bias added by hand': (
        lambda: Block(
            lambda m, x: m.n(m.a(x) + m.b.bias.view(1, -1, 1, 1)),
            a=conv(bias=False), b=conv(), n=nn.BatchNorm2d(6),
        ),
        1,
    ),
    'joined by channels': (
        lambda: Block(
            lambda m, x: m.n(torch.cat([m.a(x), x, m.b(x)], 1)),
            a=conv(), b=conv(out=5), n=nn.BatchNorm2d(14),
        ),
        2,
    ),
    'read by two norms': (
        lambda: Block(
            lambda m, x: (lambda y: m.n1(y) + m.n2(F.max_pool2d(y, 1)))(m.a(x)),
            a=conv(), n1=nn.BatchNorm2d(6), n2=nn.BatchNorm2d(6),
        ),
        1,
    ),
    'transposed': (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 2, 2), nn.BatchNorm2d(6)),
        1,
    ),
    'linear': (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.ReLU(),
            nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5),
        ),
        2,
    ),
    'tied weights': (tied_convs, 2),
    'group norm': (
        lambda: nn.Sequential(conv(bias=False), nn.GroupNorm(2, 6)),
        1,
    ),
    'instance norm that keeps statistics': (
        lambda: nn.Sequential(conv(), nn.InstanceNorm2d(6, track_running_stats=True)),
        1,
    ),
    'weight standardization': (
        lambda: nn.Sequential(
            built_conv('ConvWS', 3, 6, 3, bias=True), nn.GroupNorm(2, 6)
        ),
        1,
    ),
    'batch norm without statistics': (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(6, track_running_stats=False)),
        1,
    ),
    'cumulative average': (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(6, momentum=None)),
        1,
    ),
    'SyncBatchNorm': (lambda: nn.Sequential(conv(), nn.SyncBatchNorm(6)), 1),
    'a frozen norm behind the norm': (with_eval_norm, 1),
    'weight of a norm before a norm': (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(6), nn.BatchNorm2d(6)),
        2,
    ),
    'retina head, shared': (lambda: retina('RetinaHead'), 4, pyramid),
    'retina head, a norm per level': (
        lambda: retina('RetinaSepBNHead', num_ins=3),
        4,
        pyramid,
    ),
    'resnet': (
        lambda: mmdet_module(
            type='ResNet', depth=18, base_channels=8, num_stages=2, strides=(1, 2),
            dilations=(1, 1), out_indices=(0, 1), frozen_stages=1, norm_eval=False,
        ),
        5,
        lambda: (images(size=32),),
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_nothing_changes_but_the_scale(case):
    build, expected, *rest = CASES[case]
    inputs = rest[0]() if rest else (images(),)
    model = prepare(build())
    names = [e.name for e in find_scale_invariant(model, inputs) if e.invariant]
    assert len(names) == expected
    factors = draw(names)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rescale_(model, optimizer, names, factors, inputs=inputs)

    assert distance(evaluated(before, inputs), evaluated(model, inputs)) < 1e-10
    loss, gradients = trained(before, inputs)
    rescaled_loss, rescaled_gradients = trained(model, inputs)
    assert rescaled_loss == pytest.approx(loss, rel=1e-9)
    for name, c in factors.items():
        weight = before.get_parameter(name)
        assert torch.allclose(model.get_parameter(name), c * weight, rtol=1e-14)
        if gradients[name] is not None:
            scale = gradients[name].abs().max()
            change = rescaled_gradients[name] * c - gradients[name]
            assert change.abs().max() <= 1e-8 * scale + 1e-12, name


# Their ε is part of their code, so it shows.
OWN_EPSILON = {
    'norm written by hand',
    'root mean square written by hand',
    'functional batch norm',
}


def test_every_connection_that_leaves_a_weight_invariant():
    checked = 0
    for case, (build, expected) in CONNECTIONS.items():
        model, inputs = prepare(build()), (images(),)
        entries = find_scale_invariant(model, inputs)
        names = [entry.name for entry in entries if entry.invariant]
        if not names:
            continue
        before = copy.deepcopy(model)
        rescale_(model, None, names, draw(names), inputs=inputs)
        change = distance(evaluated(before, inputs), evaluated(model, inputs))
        assert change < (1e-3 if case in OWN_EPSILON else 1e-9), case
        checked += bool(expected)
    assert checked > 20


def test_a_detector_needs_no_inputs():
    model = frozen(mask_rcnn(), 'backbone.conv1.weight')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    dependents = find_dependents(model)
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    names = [name for name, reason in dependents.refused.items() if reason is None]
    assert len(names) > 20 and 'backbone.conv1.weight' not in names

    prepare(model)
    pixels = images(size=64, batch=2)

    def outputs(one):
        one = copy.deepcopy(one)
        one.eval()
        with torch.no_grad():
            maps = one.extract_feat(pixels)
            return leaves([maps, one.roi_head.bbox_head(maps[0][:, :, :7, :7])])

    unscaled = outputs(model)
    rescale_(model, None, names, draw(names), dependents=dependents)
    assert distance(unscaled, outputs(model)) < 1e-9


def test_averaged_copies_follow():
    x = images()
    model = prepare(nn.Sequential(conv(), nn.BatchNorm2d(6)))
    average = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(0.1)
    before = evaluated(average, [x])
    rescale_(model, None, ['0.weight'], 0.4, inputs=x, copies=[average])
    assert distance(before, evaluated(average, [x])) < 1e-10


def snapshot(model, optimizer):
    state = [optimizer.state[p] for p in model.parameters() if p in optimizer.state]
    tensors = [*model.state_dict().values(), *(s['momentum_buffer'] for s in state)]
    return [tensor.clone() for tensor in tensors]


def stepped(model, x=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(leaf.sin().sum() for leaf in leaves(model(images() if x is None else x))
        ).backward()  # fmt: skip
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize(
    ('names', 'factor', 'message'),
    [
        (['0.wieght'], 0.5, "no parameter '0.wieght'; did you mean '0.weight'"),
        (['0.bias'], 0.5, '0.bias cannot be rescaled: without effect'),
        (['0.weight', '3.weight'], 0.5, '3.weight cannot be rescaled: a bias'),
        (['0.weight'], 0.0, "'0.weight' must be > 0 and finite, got 0.0"),
        (['0.weight'], -1, "'0.weight' must be > 0"),
        (['0.weight'], math.nan, "'0.weight' must be > 0 and finite, got nan"),
        (['0.weight'], math.inf, "'0.weight' must be > 0 and finite, got inf"),
        (['0.weight'], True, "'0.weight' must be > 0 and finite, got True"),
        (['0.weight'], '2', "'0.weight' must be > 0 and finite, got '2'"),
        (['0.weight'], 1e-200, "factor of '0.weight' is beyond the range"),
        (['0.weight'], {}, "no entry for '0.weight'"),
        (['0.weight'], {'0.weight': 1.0, 'x': 2.0}, "'x', which is not among"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_changed(
    names, factor, message
):
    model = prepare(
        nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2), nn.ReLU())
    )
    optimizer = stepped(model)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=message):
        rescale_(model, optimizer, names, factor, inputs=images())
    for a, b in zip(before, snapshot(model, optimizer), strict=True):
        assert torch.equal(a, b)


def test_a_norm_that_serves_two_weights_needs_both_alike():
    def build():
        return prepare(
            Block(
                lambda m, x: m.n(m.a(x)) + F.relu(m.n(m.b(x))),
                a=conv(bias=False), b=conv(bias=False), n=nn.BatchNorm2d(6),
            )
        )  # fmt: skip

    x, names = images(), ['a.weight', 'b.weight']
    model = build()
    before = copy.deepcopy(model)
    apart = dict(zip(names, (0.5, 2.0), strict=True))
    for some, factor in ((names[:1], 0.5), (names, apart)):
        with pytest.raises(ValueError, match=r'cannot be rescaled: n also serves'):
            rescale_(model, None, some, factor, inputs=x)
    rescale_(model, None, names, 0.5, inputs=x)
    assert distance(evaluated(before, [x]), evaluated(model, [x])) < 1e-10


def test_a_bias_that_something_else_reads_is_refused():
    model = prepare(
        Block(
            lambda m, x: m.n(m.a(x)) + m.a.bias.exp().view(1, -1, 1, 1),
            a=conv(), n=nn.BatchNorm2d(6),
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match=r'a.weight cannot be rescaled: a.bias also'):
        rescale_(model, None, ['a.weight'], 0.5, inputs=images())


def test_either_name_of_a_tied_weight_will_do_once():
    model = tied_convs()
    before = model.a.weight.clone()
    rescale_(model, None, ['a.weight', 'b.weight'], 0.5, inputs=images().float())
    assert torch.equal(model.a.weight, before * 0.5)
    with pytest.raises(ValueError, match=r"'b.weight' is tied"):
        factors = {'a.weight': 0.5, 'b.weight': 0.6}
        rescale_(model, None, factors, factors, inputs=images().float())


class NeedsTwo(nn.Module):
    """A plain module whose inputs cannot be guessed."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2))

    def forward(self, x, scale):
        return self.layers(x) * scale


def test_plain_modules_need_no_inputs():
    x = images()
    for model, inputs in (
        (nn.Sequential(conv(bias=False), conv(6, 6), nn.BatchNorm2d(6)), (x,)),
        (NeedsTwo(), (x, 2.0)),
    ):
        prepare(model)
        observed = isinstance(model, nn.Sequential)
        names = ['0.weight', '1.weight'] if observed else ['layers.0.weight']
        before = copy.deepcopy(model)
        rescale_(model, None, names, 0.4)
        assert distance(evaluated(before, inputs), evaluated(model, inputs)) < 1e-10
    with pytest.raises(ValueError, match='by the order of modules alone'):
        rescale_(model, None, ['layers.3.weight'], 0.5)
