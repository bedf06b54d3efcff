"""What must be scaled along with a weight, for the evaluated function to stay."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .degrees import Layout
from .order import judge_by_order, pairs_by_order
from .sample_inputs import forward_model
from .structure import forward_on, judge, walk_graph
from .undisturbed import is_batch_norm, kept_modules, kept_rng, to_train_mode

__all__ = ['Dependents', 'find_dependents']

# Sides in pixels of the images that a plain module is tried with.
_SIDES = (64, 32, 28, 224)


@dataclasses.dataclass(frozen=True)
class Dependents:
    """Biases and running statistics that follow the scale of weights.

    In training mode a weight's scale is without effect. In evaluation mode batch norm
    uses stored statistics, which have to fit; and a bias has to keep its proportion
    to what it is added to.

    Args:
        refused: By name of a parameter, why it cannot be rescaled; None if it can.
        biases: By name of a bias, what it is added to, at each of its uses: the
            degree of that value by name of the weight that it scales with. A use that
            is no addition has no degrees.
        statistics: By name of a norm that keeps running statistics, its input at each
            of its calls: by name of the weight that the input scales with, runs of
            consecutive channels as pairs (number of channels, degree).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> found = find_dependents(model, torch.randn(2, 3, 8, 8))
        >>> found.refused['0.weight'] is None
        True
        >>> found.biases['0.bias']
        ({'0.weight': 1.0},)
        >>> found.statistics
        {'1': ({'0.weight': ((8, 1.0),)},)}
    """

    refused: Mapping[str, str | None]
    biases: Mapping[str, Sequence[Mapping[str, float]]]
    statistics: Mapping[str, Sequence[Mapping[str, Layout]]]


def find_dependents(
    model: nn.Module,
    inputs: Sequence | Tensor | None = None,
    forward: Callable[[], object] | None = None,
) -> Dependents:
    """Find what must be scaled along with each scale-invariant weight.

    One forward pass is observed in train mode, as by
    :func:`~smd_mmdet.invariance.find_scale_invariant`, and everything restored.

    Args:
        model: The model, without a DDP wrapper.
        inputs: Positional arguments of one forward pass. None: a model of
            MMEngine gets small random images, a plain module is tried with random
            numbers of the shape that its first layer takes; if it cannot take
            these, the order of its children decides.
        forward: Function that runs the forward pass and returns its losses. It
            takes the place of ``inputs``.

    Returns:
        The dependents.

    Raises:
        ValueError: If the forward pass returns nothing that needs a gradient.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)
        ... )
        >>> for name, reason in find_dependents(model).refused.items():
        ...     print(name, reason)
        0.weight None
        1.weight it is a weight or bias of 1
        1.bias it is a weight or bias of 1
        2.weight a bias is added to it (Convolution in 2)
        2.bias a bias is added to it (Convolution in 2)
    """
    if forward is not None:
        return _observed(model, forward)
    if inputs is not None:
        return _observed(model, forward_on(model, inputs))
    if hasattr(model, 'data_preprocessor') and hasattr(model, 'loss'):
        return _observed(model, functools.partial(forward_model, model, []))
    for guess in _guesses(model):
        try:
            return _observed(model, forward_on(model, guess))
        except Exception:  # whatever a foreign forward raises for a wrong input
            continue
    return _by_order(model)


def _observed(model: nn.Module, forward: Callable[[], object]) -> Dependents:
    """Dependents as the graph of a forward pass shows them."""
    walk = walk_graph(model, forward, frozen=True)
    followers = walk.followers
    names = {id(p): name for name, p in model.named_parameters()}
    refused = {
        entry.name: None if entry.invariant else entry.reason
        for entry in judge(model, walk)
    }
    for weight, reason in followers.out_of_reach.items():
        refused[names[weight]] = refused[names[weight]] or reason
    biases = {
        names[bias]: tuple(
            {names[weight]: degree for weight, degree in use.items()} for use in uses
        )
        for bias, uses in followers.biases().items()
        if any(uses)
    }
    statistics = {
        norm: tuple(
            {names[weight]: layout for weight, layout in call.items()} for call in calls
        )
        for norm, calls in followers.statistics.items()
        if any(calls)
    }
    return Dependents(refused, biases, statistics)


def _guesses(model: nn.Module) -> Iterator[Tensor]:
    """Random inputs that the first layer of a plain module would take."""
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            dimensions = len(module.kernel_size)
            shapes = [(4, module.in_channels, *[side] * dimensions) for side in _SIDES]
        elif isinstance(module, nn.Linear):
            shapes = [(4, module.in_features)]
        else:
            continue
        like = next(module.parameters(), torch.empty(0))
        generator = torch.Generator().manual_seed(0)
        for shape in shapes:
            yield torch.randn(shape, generator=generator).to(like)
        return


def _by_order(model: nn.Module) -> Dependents:
    """Dependents where only the order of children is known."""
    names = {id(p): name for name, p in model.named_parameters()}
    biases: dict[str, list[dict[str, float]]] = {}
    statistics: dict[str, list[dict[str, Layout]]] = {}
    followed: collections.Counter[str] = collections.Counter()
    with kept_rng(), kept_modules(model):
        to_train_mode(model)
        refused = {
            entry.name: None if entry.invariant else entry.reason
            for entry in judge_by_order(model)
        }
        for module, norm, norm_name in pairs_by_order(model):
            weight = names[id(module.weight)]
            if refused[weight] is not None:
                continue
            followed[weight] += 1
            if module.bias is not None:
                biases.setdefault(names[id(module.bias)], []).append({weight: 1.0})
            if is_batch_norm(norm) and norm.running_mean is not None:
                layout = ((cast(int, norm.num_features), 1.0),)
                statistics.setdefault(norm_name, []).append({weight: layout})
    for name, holders in _holders(model).items():
        if name in followed and followed[name] != holders:
            refused[name] = 'not every use of it is followed by a norm'
        if name in biases and len(biases[name]) != holders:
            biases[name].append({})
    return Dependents(refused, biases, statistics)


def _holders(model: nn.Module) -> collections.Counter[str]:
    """How many modules hold each parameter, by its first name."""
    names = {id(p): name for name, p in model.named_parameters()}
    held = itertools.chain.from_iterable(
        module.parameters(recurse=False) for module in model.modules()
    )
    return collections.Counter(names[id(parameter)] for parameter in held)
