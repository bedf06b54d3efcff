"""Ways to connect a weight with a norm, and which weights are scale-invariant then.

The truth is labelled by hand, from the architectures; never from our output.
"""

import torch
from models import Block, conv
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class Opaque(torch.autograd.Function):
    """The identity, as a function that nobody has a rule for."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


def _convnext():
    layers = dict(
        stem=nn.Conv2d(3, 8, 4, stride=4),
        stem_norm=nn.LayerNorm(8),
        dw=nn.Conv2d(8, 8, 7, padding=3, groups=8),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 32),
        down=nn.Linear(32, 8),
        out_norm=nn.LayerNorm(8),
    )

    def connect(m, x):
        x = m.stem_norm(m.stem(x).permute(0, 2, 3, 1))
        y = m.norm(m.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return m.out_norm(x + m.down(F.gelu(m.up(y))))

    return Block(connect, **layers)


def connected(connect, **layers):
    layers.setdefault('a', conv(into=3))
    return Block(connect, **layers)


def _frozen_bias(model):
    model[0].bias.requires_grad_(False)
    return model


def _dead_norm():
    norm = nn.BatchNorm2d(8)
    nn.init.constant_(norm.bias, -100.0)
    return norm


def _norms(*widths):
    return {f'n{i}': nn.BatchNorm2d(width) for i, width in enumerate(widths)}


def _dense(m, x):
    y = m.a(x)
    y = torch.cat([y, m.b(F.relu(m.n0(y)))], 1)
    y = torch.cat([y, m.c(F.relu(m.n1(y)))], 1)
    return F.relu(m.n2(y))


def _groups(count):
    return nn.GroupNorm(count, 16)


def _dense_pair(m, x):
    y = m.a(x)
    return m.n(torch.cat([y, m.b(F.relu(m.n1(y)))], 1))


def _two_readers(m, x):
    y = m.a(x)
    z = m.b(y)
    unit = z * torch.rsqrt((z * z).mean(1, keepdim=True) + 1e-12)
    return m.norm(z) * y.sigmoid() * unit


def _standardized(x, eps):
    mean = x.mean((0, 2, 3), keepdim=True)
    var = x.var((0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(var + eps)


CASES = {
    # name: (module, names of the invariant parameters)
    'bias before batch norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        {'0.weight'},
    ),
    'bias before group norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)),
        set(),
    ),
    'no bias before group norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8)),
        {'0.weight'},
    ),
    'frozen bias before group norm': (
        lambda: _frozen_bias(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))),
        set(),
    ),
    'bias before a group norm of single channels': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8)),
        {'0.weight'},
    ),
    'bias before instance norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)),
        {'0.weight'},
    ),
    'layer norm, linear without bias': (
        lambda: connected(
            lambda m, x: m.norm(m.linear(x.flatten(1))),
            a=nn.Identity(),
            linear=nn.Linear(192, 8, bias=False),
            norm=nn.LayerNorm(8),
        ),
        {'linear.weight'},
    ),
    'layer norm, linear with bias': (
        lambda: connected(
            lambda m, x: m.norm(m.linear(x.flatten(1))),
            a=nn.Identity(),
            linear=nn.Linear(192, 8),
            norm=nn.LayerNorm(8),
        ),
        set(),
    ),
    'linear with bias before batch norm': (
        lambda: connected(
            lambda m, x: m.norm(m.linear(x.flatten(1))),
            a=nn.Identity(),
            linear=nn.Linear(192, 8),
            norm=nn.BatchNorm1d(8),
        ),
        {'linear.weight'},
    ),
    'a second reader beside the norm': (
        lambda: connected(
            lambda m, x: (lambda y: m.norm(y) + y)(m.a(x)), norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'a second reader that is an output': (
        lambda: connected(
            lambda m, x: (lambda y: [m.norm(y), y])(m.a(x)), norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'two readers, both norms': (
        lambda: connected(
            lambda m, x: (lambda y: m.norm(y) * m.other(y).sigmoid())(m.a(x)),
            norm=nn.BatchNorm2d(8),
            other=nn.GroupNorm(2, 8),
        ),
        {'a.weight'},
    ),
    # x + b(relu(norm(x))): a is read by the norm and by the sum, b by the sum only;
    # the last norm sees both, which scale apart.
    'pre-activation residual block': (
        lambda: connected(
            lambda m, x: (lambda y: m.out(y + m.b(F.relu(m.norm(y)))))(m.a(x)),
            b=conv(),
            norm=nn.BatchNorm2d(8),
            out=nn.BatchNorm2d(8),
        ),
        set(),
    ),
    # Inside the block the first kernel is read by a norm alone.
    'pre-activation block, two kernels': (
        lambda: connected(
            lambda m, x: (lambda y: y + m.c(F.relu(m.n2(m.b(F.relu(m.n1(y)))))))(
                m.a(x)
            ),
            b=conv(),
            c=conv(),
            n1=nn.BatchNorm2d(8),
            n2=nn.BatchNorm2d(8),
        ),
        {'b.weight'},
    ),
    # Every layer's output is read by batch norms alone, if beside other channels.
    'densely connected': (
        lambda: connected(_dense, b=conv(True), c=conv(False, 16), **_norms(8, 16, 24)),
        {'a.weight', 'b.weight', 'c.weight'},
    ),
    'densely connected, one group over both': (
        lambda: connected(_dense_pair, b=conv(), n1=nn.BatchNorm2d(8), n=_groups(1)),
        set(),
    ),
    'densely connected, groups of their own': (
        lambda: connected(_dense_pair, b=conv(), n1=nn.BatchNorm2d(8), n=_groups(4)),
        set(),
    ),
    'behind a rectifier': (
        lambda: nn.Sequential(
            conv(into=3), nn.ReLU(), nn.MaxPool2d(2), conv(), nn.BatchNorm2d(8)
        ),
        {'0.weight', '3.weight'},
    ),
    'behind a rectifier, bias in front of it': (
        lambda: nn.Sequential(
            conv(True, 3), nn.LeakyReLU(), conv(True), nn.BatchNorm2d(8)
        ),
        {'2.weight'},
    ),
    'behind an activation that is not homogeneous': (
        lambda: nn.Sequential(conv(into=3), nn.SiLU(), conv(), nn.BatchNorm2d(8)),
        {'2.weight'},
    ),
    'rectifier with an upper bound': (
        lambda: nn.Sequential(conv(into=3), nn.ReLU6(), conv(), nn.BatchNorm2d(8)),
        {'2.weight'},
    ),
    'activation between kernel and norm': (
        lambda: nn.Sequential(conv(into=3), nn.GELU(), nn.BatchNorm2d(8)),
        set(),
    ),
    'depthwise separable': (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, groups=3, bias=False), conv(False, 6), nn.BatchNorm2d(8)
        ),
        {'0.weight', '1.weight'},
    ),
    'transposed': (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 2, 2), nn.BatchNorm2d(8)),
        {'0.weight'},
    ),
    'norm first': (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), conv(into=3)),
        set(),
    ),
    # The second norm removes gain and offset of the first, channel by channel.
    'norm after norm': (
        lambda: nn.Sequential(conv(into=3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)),
        {'0.weight', '1.weight'},
    ),
    'weight normalization': (
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        {'parametrizations.weight.original1'},
    ),
    'norm written by hand': (
        lambda: connected(lambda m, x: _standardized(m.a(x), 1e-5)),
        {'a.weight'},
    ),
    'root mean square written by hand': (
        lambda: connected(
            lambda m, x: (
                lambda y: y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-6)
            )(m.a(x))
        ),
        {'a.weight'},
    ),
    'normalized vectors': (
        lambda: connected(lambda m, x: F.normalize(m.a(x), dim=1) * 20),
        {'a.weight'},
    ),
    'functional batch norm': (
        lambda: connected(lambda m, x: F.batch_norm(m.a(x), None, None, training=True)),
        {'a.weight'},
    ),
    'unknown function in between': (
        lambda: connected(
            lambda m, x: m.norm(Opaque.apply(m.a(x))), norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'kept in the graph by a factor of 0': (
        lambda: connected(
            lambda m, x: m.norm(m.a(x)).mean() + 0 * m.a.weight.sum(),
            norm=nn.BatchNorm2d(8),
        ),
        {'a.weight'},
    ),
    'unused': (
        lambda: connected(
            lambda m, x: m.norm(m.a(x)), b=conv(), norm=nn.BatchNorm2d(8)
        ),
        {'a.weight'},
    ),
    'shared by a normalized and a raw call': (
        lambda: connected(
            lambda m, x: [m.norm(m.a(x)), m.a(x.flip(0)).relu()], norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'synchronized batch norm': (
        lambda: nn.Sequential(conv(True, 3), nn.SyncBatchNorm(8)),
        {'0.weight'},
    ),
    'batch norm without running statistics in eval mode': (
        lambda: nn.Sequential(
            conv(into=3), nn.BatchNorm2d(8, track_running_stats=False).eval()
        ),
        {'0.weight'},
    ),
    'dead rectifiers': (
        lambda: nn.Sequential(
            conv(into=3), _dead_norm(), nn.ReLU(), conv(), nn.BatchNorm2d(8)
        ),
        {'0.weight', '3.weight'},
    ),
    'resized, padded, sliced, dropped out': (
        lambda: connected(
            lambda m, x: m.norm(
                F.dropout(F.interpolate(F.pad(m.a(x), (1, 1)), scale_factor=2.0), 0.3)[
                    ..., 1:
                ]
            ),
            norm=nn.BatchNorm2d(8),
        ),
        {'a.weight'},
    ),
    'convnext block': (_convnext, set()),
    'a list of one, joined by channels': (
        lambda: connected(
            lambda m, x: m.norm(torch.cat([m.a(x)], 1)), norm=nn.BatchNorm2d(8)
        ),
        {'a.weight'},
    ),
    'a list of one, stacked': (
        lambda: connected(
            lambda m, x: m.norm(torch.stack([m.a(x)]).squeeze(0)),
            norm=nn.GroupNorm(2, 8),
        ),
        {'a.weight'},
    ),
    # The square is taken after the case of a has ended.
    'a square behind another weight': (
        lambda: connected(_two_readers, b=conv(), norm=nn.BatchNorm2d(8)),
        {'b.weight'},
    ),
}


# The forward pass alone cannot tell these; the proof does.
BEYOND_STRUCTURE = {
    'unknown function in between': {'a.weight'},
    'densely connected, groups of their own': {'a.weight', 'b.weight'},
}
