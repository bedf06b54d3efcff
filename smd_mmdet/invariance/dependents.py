"""What must be scaled along with a weight, for the evaluated function to stay."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .operations import Layout
from .structure import judge, judge_by_order, pairs_by_order, walk_graph
from .undisturbed import is_batch_norm, kept_modules, kept_rng, to_train_mode

# Sides of the images that a plain module is tried with.
_SIDES = (64, 32, 28, 224)


@dataclasses.dataclass(frozen=True)
class Dependents:
    """Biases and running statistics that follow the scale of weights.

    In training mode a weight's scale is without effect. In evaluation mode batch norm
    uses stored statistics, which have to fit; and a bias has to keep its proportion
    to what it is added to.

    Args:
        refused: Why a parameter cannot be rescaled, by name; None if it can.
        biases: By the name of a bias, the degrees of what it is added to, by the name
            of a weight, at each of its uses. A use of another kind has none.
        statistics: By the name of a norm that keeps running statistics, the degrees
            of its input, channel by channel, at each of its calls.
    """

    refused: Mapping[str, str | None]
    biases: Mapping[str, Sequence[Mapping[str, float]]]
    statistics: Mapping[str, Sequence[Mapping[str, Layout]]]


def find_dependents(
    model: nn.Module,
    inputs: Sequence | None = None,
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
        forward: Runs the forward pass and returns its losses, in place of ``inputs``.

    Returns:
        The dependents.

    Raises:
        ValueError: If the forward pass returns nothing that needs a gradient.
    """
    if forward is not None:
        return _observed(model, forward)
    if inputs is not None:
        inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        return _observed(model, lambda: model(*inputs))
    if hasattr(model, 'data_preprocessor') and hasattr(model, 'loss'):
        from .sample_inputs import forward_model

        return _observed(model, lambda: forward_model(model, []))
    for guess in _guesses(model):
        try:
            return _observed(model, functools.partial(model, guess))
        except Exception:  # whatever a foreign forward raises for a wrong input
            continue
    return _by_order(model)


def _observed(model: nn.Module, forward: Callable[[], object]) -> Dependents:
    walk = walk_graph(model, forward, frozen=True)
    names = {id(p): name for name, p in model.named_parameters()}
    refused = {}
    for entry in judge(model, walk):
        refused[entry.name] = None if entry.invariant else entry.reason
    for p, reason in walk.unmet.items():
        refused[names[p]] = refused[names[p]] or reason
    biases = {}
    for leaf, uses in walk.shifts.items():
        others: list[dict] = [{}] * (walk.uses[leaf] - len(uses))
        found = [{names[p]: d for p, d in use.items()} for use in uses]
        if any(found):
            biases[names[leaf]] = (*found, *others)
    statistics = {
        name: tuple({names[p]: layout for p, layout in call.items()} for call in calls)
        for name, calls in walk.statistics.items()
        if any(calls)
    }
    return Dependents(refused, biases, statistics)


def _guesses(model: nn.Module):
    for module in model.modules():
        reference = next(module.parameters(recurse=False), None)
        generator = torch.Generator().manual_seed(0)
        if isinstance(module, nn.modules.conv._ConvNd):
            shapes = [
                (4, module.in_channels, *[side] * len(module.kernel_size))
                for side in _SIDES
            ]
        elif isinstance(module, nn.Linear):
            shapes = [(4, module.in_features)]
        else:
            continue
        for shape in shapes:
            yield torch.randn(shape, generator=generator).to(reference)
        return


def _by_order(model: nn.Module) -> Dependents:
    """Dependents where only the order of children is known."""
    with kept_rng(), kept_modules(model):
        to_train_mode(model)
        refused = {
            entry.name: None if entry.invariant else entry.reason
            for entry in judge_by_order(model)
        }
        names = {id(p): name for name, p in model.named_parameters()}
        biases: dict[str, list] = {}
        statistics: dict[str, list] = {}
        followed: dict[str, int] = {}
        for module, norm, norm_name in pairs_by_order(model):
            weight = names[id(module.weight)]
            if refused[weight] is not None:
                continue
            followed[weight] = followed.get(weight, 0) + 1
            if module.bias is not None:
                biases.setdefault(names[id(module.bias)], []).append({weight: 1.0})
            if is_batch_norm(norm) and norm.running_mean is not None:
                layout = ((norm.num_features, 1.0),)
                statistics.setdefault(norm_name, []).append({weight: layout})
    for name, uses in _uses(model).items():
        if name in followed and followed[name] != uses:
            refused[name] = 'not every use of it is followed by a norm'
        if name in biases and len(biases[name]) != uses:
            biases[name].append({})
    return Dependents(refused, biases, statistics)


def _uses(model: nn.Module) -> dict[str, int]:
    """How many modules hold each parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    held = itertools.chain.from_iterable(
        module.parameters(recurse=False) for module in model.modules()
    )
    uses: dict[str, int] = {}
    for parameter in held:
        name = names[id(parameter)]
        uses[name] = uses.get(name, 0) + 1
    return uses
