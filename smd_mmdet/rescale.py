"""Function-preserving rescaling of scale-invariant weights.

For a scale-invariant weight w and every c > 0

    L(cw) = L(w),    ∇L(cw) = ∇L(w) / c:

the loss does not depend on the norm of w, but the gradient does, and with it the angle
Δ that a step turns w through: Δ ∝ 1/‖w‖² under SGD, Δ ∝ 1/‖w‖ under AdamW, and under
SGD too where gradients are clipped at every step. So a weight can be put at any norm at
any time, at that of its equilibrium for one, and the network stays the function it is.

Three things follow a weight w → cw, so that training and evaluation go on as before:

1.  What the optimizer has averaged. The gradient g becomes g/c, so an average of
    gradients becomes m/c and one of squared gradients v/c².
2.  A bias between the weight and its norm, which has to keep its proportion to what it
    is added to: b → cb.
3.  The running statistics of batch norm, which evaluation normalizes by: the mean
    becomes c · mean, the variance c² · variance.

Two things are not the same to the last digit:

1.  The ε of a norm stays what it is, and becomes larger or smaller beside the variance.
2.  So does the ε of AdamW beside the root of v.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from smd_mmdet._arguments import real_number
from smd_mmdet._text import did_you_mean
from smd_mmdet.invariance import Dependents, find_dependents

__all__ = [
    'ConflictError',
    'apply',
    'plan',
    'rescale_',
    'statistics_factors',
    'unwrapped',
]

# Tensors, and what each of them is multiplied by.
Multiplications = list[tuple[Tensor, float | Tensor]]
# Runs of consecutive channels: how many there are, and the factor that they share. A
# single run stands for all channels, whatever its number says.
ChannelFactors = tuple[tuple[int, float], ...]

# Powers of the gradient in what optimizers keep of it. Gradients become g/c, so a
# state of degree d is multiplied by c^-d.
_STATE_DEGREES = {
    'momentum_buffer': 1,
    'exp_avg': 1,
    'exp_inf': 1,
    'grad_avg': 1,
    'exp_avg_sq': 2,
    'max_exp_avg_sq': 2,
    'square_avg': 2,
    'sum': 2,
}
# What goes into these buffers is no gradient. RMSprop divides it by the root of its
# mean square: g/c divided by √(v/c²) is g/√v, without c. LARS multiplies it by the
# learning rate and by ‖w‖/‖g‖, which makes it a step, of the scale of the weight.
_OTHER_BUFFERS = {('RMSprop', 'momentum_buffer'): 0, ('LARS', 'momentum_buffer'): -1}


class ConflictError(ValueError):
    """Factors that do not fit together.

    Args:
        message: What is wrong.
        names: Names of the weights whose factors are in conflict.
    """

    def __init__(self, message: str, names: Iterable[str]) -> None:
        super().__init__(message)
        self.names = sorted(names)


def rescale_(
    model: nn.Module,
    optimizer: Optimizer | None,
    names: Iterable[str] | str,
    factor: float | Mapping[str, float],
    *,
    inputs: Sequence | Tensor | None = None,
    dependents: Dependents | None = None,
    copies: Iterable[nn.Module] = (),
) -> None:
    """Multiply scale-invariant weights, and whatever follows them, in place.

    Outputs in evaluation mode and losses in training mode stay what they are, up to
    the norms' ε. Where several weights come before one norm, what follows them is
    multiplied by the product of their factors.

    Args:
        model: The model, wrapped for DDP or not.
        optimizer: Optimizer of the model, whose averages of gradients follow; None
            leaves them out.
        names: Names of scale-invariant weights.
        factor: The factor c > 0 of all these weights, or one for each by name.
        inputs: Positional arguments of one forward pass to observe; see
            :func:`~smd_mmdet.invariance.find_dependents`.
        dependents: What that function has found, where it is known already.
        copies: Models to scale alike, such as averages of this one's weights.

    Raises:
        ValueError: If a name is unknown or not scale-invariant, a factor is not
            positive and finite, or what follows a weight cannot follow. Nothing is
            changed then.

    Example:
        At a learning rate divided by 10, Δ is at its new equilibrium at once if the
        weight is multiplied by 10^(−1/4):

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> images, before = torch.randn(2, 3, 8, 8), model[0].weight.norm().item()
        >>> outputs = model(images)
        >>> rescale_(model, optimizer, ['0.weight'], 10 ** -0.25)
        >>> round(model[0].weight.norm().item() / before, 4)
        0.5623
        >>> torch.allclose(model(images), outputs, atol=1e-3)
        True
    """
    model = unwrapped(model)
    factors = _checked(model, names, factor)
    if dependents is None:
        dependents = find_dependents(model, inputs)
    apply(plan(model, optimizer, factors, dependents, copies))


def plan(
    model: nn.Module,
    optimizer: Optimizer | None,
    factors: Mapping[str, float],
    dependents: Dependents,
    copies: Iterable[nn.Module] = (),
    clipping: Mapping[str, float] | None = None,
) -> Multiplications:
    """List everything that a rescaling multiplies, without doing it.

    Args:
        model: The model, without a DDP wrapper.
        optimizer: Optimizer of the model, or None, as for :func:`rescale_`.
        factors: Factor of each weight, by name.
        dependents: What follows the model's weights.
        copies: Models to scale alike, as for :func:`rescale_`.
        clipping: What the clip coefficient of a parameter's gradients is multiplied
            by, by name, where that changes with the norms of the weights: averages of
            clipped gradients follow it too. Those that are not named keep theirs.

    Returns:
        Tensors and their multipliers.

    Raises:
        ConflictError: If factors do not fit together.
        ValueError: If a weight cannot be rescaled.

    Example:
        The weight, the bias, and the mean and variance of the norm:

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> dependents = find_dependents(model)
        >>> planned = plan(model, None, {'0.weight': 0.5}, dependents)
        >>> [(tuple(tensor.shape), multiplier) for tensor, multiplier in planned]
        [((8, 3, 3, 3), 0.5), ((8,), 0.5), ((8,), 0.5), ((8,), 0.25)]
    """
    for name in factors:
        if reason := dependents.refused.get(name, 'the forward pass does not use it'):
            raise ValueError(f'{name} cannot be rescaled: {reason}')
    parameters = {**factors, **_bias_factors(dependents, factors)}
    statistics = statistics_factors(dependents, factors)
    planned: Multiplications = []
    known = dict(model.named_parameters())
    of_copies = [(one, dict(one.named_parameters())) for one in map(unwrapped, copies)]
    for one, its in ((model, known), *of_copies):
        planned += [(its[name].data, c) for name, c in parameters.items()]
        for name, scale in statistics.items():
            planned += _of_statistics(one.get_submodule(name), scale)
    for name, c in parameters.items():
        gradient = known[name].grad
        if gradient is not None:
            planned.append((gradient, 1 / c))
    if optimizer is not None:
        changes = clipping or {}
        for name, parameter in known.items():
            c, change = parameters.get(name, 1.0), changes.get(name, 1.0)
            if c != 1 or change != 1:
                follows = name in parameters and name not in factors
                planned += _of_state(optimizer, name, parameter, c, change, follows)
    for tensor, multiplier in planned:
        _check_range(tensor, multiplier, factors)
    return planned


def apply(planned: Multiplications) -> None:
    """Multiply tensors in place.

    Args:
        planned: Tensors and their multipliers.

    Example:
        >>> weight = torch.tensor([1.0, 2.0])
        >>> apply([(weight, 0.5)])
        >>> weight
        tensor([0.5000, 1.0000])
    """
    # Those with a number go together: on a GPU a few launches, not one for each. One
    # that comes twice, which a launch would do at once, goes alone.
    tensors, numbers, seen = [], [], set()
    with torch.no_grad():
        for tensor, multiplier in planned:
            if isinstance(multiplier, Tensor) or tensor.data_ptr() in seen:
                tensor.mul_(multiplier)
            else:
                tensors.append(tensor)
                numbers.append(multiplier)
                seen.add(tensor.data_ptr())
        if tensors:
            torch._foreach_mul_(tensors, numbers)


def unwrapped(model: nn.Module) -> nn.Module:
    """Take a model out of its wrapper for DDP.

    Args:
        model: The model, wrapped or not.

    Returns:
        The model itself.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(model)) is model
        True
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return model.module if isinstance(model, wrappers) else model


def statistics_factors(
    dependents: Dependents, factors: Mapping[str, float]
) -> dict[str, ChannelFactors]:
    """Tell by what factor the input of each norm with running statistics grows.

    Args:
        dependents: What follows the model's weights.
        factors: Factor of each weight, by name.

    Returns:
        By name of a norm, runs of consecutive channels as pairs (number of channels,
        factor). Where all channels have one factor, it is the only pair. Norms whose
        input stays what it is are left out.

    Raises:
        ConflictError: If the calls of one norm need different factors.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> statistics_factors(find_dependents(model), {'0.weight': 0.5})
        {'1': ((1, 0.5),)}
    """
    found = {}
    for name, calls in dependents.statistics.items():
        scales = [_factors_of_channels(call, factors) for call in calls]
        _check_equal(name, [_every_channel(scale) for scale in scales], calls, factors)
        if any(c != 1 for _, c in scales[0]):
            found[name] = scales[0]
    return found


def _checked(
    model: nn.Module, names: Iterable[str] | str, factor: float | Mapping[str, float]
) -> dict[str, float]:
    """One valid factor for each weight, by the first of its names."""
    names = [names] if isinstance(names, str) else list(names)
    every = dict(model.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in model.named_parameters()}
    if isinstance(factor, Mapping):
        for name in factor.keys() - set(names):
            raise ValueError(f'factor has {name!r}, which is not among the names')
    factors: dict[str, float] = {}
    for name in names:
        if name not in every:
            hint = did_you_mean(str(name), every)
            hint = f'; {hint}' if hint else ''
            raise ValueError(f'the model has no parameter {name!r}{hint}')
        if isinstance(factor, Mapping) and name not in factor:
            raise ValueError(f'factor has no entry for {name!r}')
        c = factor[name] if isinstance(factor, Mapping) else factor
        c = real_number(c, f'the factor of {name!r}', above=0)
        if factors.setdefault(first[id(every[name])], c) != c:
            raise ValueError(f'{name!r} is tied to a weight with another factor')
    return factors


def _bias_factors(
    dependents: Dependents, factors: Mapping[str, float]
) -> dict[str, float]:
    """Factors of the biases that follow weights, by name.

    A bias that is added to a value of degree d_i in weight i has the factor Π c_i^d_i.
    """
    found = {}
    for name, uses in dependents.biases.items():
        products = [_product(use, factors) for use in uses]
        _check_equal(name, products, uses, factors)
        if products[0] == 1:
            continue
        if name in factors:
            raise ValueError(f'{name} cannot be rescaled: it follows other weights')
        found[name] = products[0]
    return found


def _product(degrees: Mapping[str, float], factors: Mapping[str, float]) -> float:
    """Factor of a value that has these degrees in the weights: Π c_i^d_i."""
    terms = [(factors[name], d) for name, d in degrees.items() if name in factors]
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]  # the usual case, without the rounding of exp(log(c))
    return math.exp(math.fsum(d * math.log(c) for c, d in terms))


def _factors_of_channels(
    call: Mapping[str, ChannelFactors], factors: Mapping[str, float]
) -> ChannelFactors:
    """Factor of each channel of a norm's input.

    Args:
        call: By name of a weight, runs of channels and their degree in that weight.
        factors: Factor of each weight, by name.

    Returns:
        Runs of channels and their factor.
    """
    layouts = {name: layout for name, layout in call.items() if name in factors}
    # A run ends where one ends in any of the layouts.
    ends = sorted({end for layout in layouts.values() for end in _ends(layout)})
    scale, start = [], 0
    for end in ends:
        degrees = {name: _degree_at(layout, start) for name, layout in layouts.items()}
        scale.append((end - start, _product(_without_zeros(degrees), factors)))
        start = end
    different = {c for _, c in scale} or {1.0}
    return tuple(scale) if len(different) > 1 else ((1, different.pop()),)


def _without_zeros(degrees: Mapping[str, float]) -> dict[str, float]:
    return {name: degree for name, degree in degrees.items() if degree}


def _ends(layout: ChannelFactors) -> list[int]:
    """The channel behind the last one of each run."""
    ends, end = [], 0
    for channels, _ in layout:
        end += channels
        ends.append(end)
    return ends


def _degree_at(layout: ChannelFactors, channel: int) -> float:
    for (_, degree), end in zip(layout, _ends(layout), strict=True):
        if channel < end:
            return degree
    return 0.0


def _every_channel(scale: ChannelFactors) -> float | list[float]:
    """The factor of every channel; one number if it is the same for all."""
    if len(scale) == 1:
        return scale[0][1]
    return [c for channels, c in scale for _ in range(channels)]


def _check_equal(
    name: str,
    values: Sequence[float | list[float]],
    uses: Iterable[Mapping[str, object]],
    factors: Mapping[str, float],
) -> None:
    """Refuse factors by which a bias or norm would need several values at once.

    Args:
        name: Name of the bias or norm.
        values: The factor, or the factors of its channels, that each use needs.
        uses: The weights that come before each use, as keys.
        factors: Factor of each weight, by name.
    """
    if len(values) < 2:
        return
    first = torch.tensor(values[0], dtype=torch.float64)
    for value in values[1:]:
        other = torch.tensor(value, dtype=torch.float64)
        if not torch.allclose(first, other, rtol=1e-9, atol=0):
            involved = {weight for use in uses for weight in use} & factors.keys()
            raise ConflictError(
                f'{min(involved)} cannot be rescaled: {name} also serves what is not '
                'scaled alike',
                involved,
            )


def _of_statistics(norm: Any, scale: ChannelFactors) -> Multiplications:
    """Mean × c and variance × c², with the factor c of each channel."""
    factor = _every_channel(scale)
    mean, variance = norm.running_mean, norm.running_var
    if isinstance(factor, float):
        return [(mean, factor), (variance, factor**2)]
    factors = torch.tensor(factor, dtype=torch.float64, device=mean.device)
    return [(mean, factors.to(mean)), (variance, factors.square().to(variance))]


def _of_state(
    optimizer: Optimizer,
    name: str,
    parameter: nn.Parameter,
    c: float,
    clipping: float,
    follows: bool,
) -> Multiplications:
    """What the optimizer keeps of a parameter's gradients, each by its degree.

    Args:
        optimizer: The optimizer.
        name: Name of the parameter, for messages.
        parameter: The parameter.
        c: Factor of the parameter.
        clipping: What the clip coefficient of its gradients is multiplied by.
        follows: Whether it is a bias that follows weights.

    Returns:
        Tensors of the optimizer and their multipliers.
    """
    kind = type(optimizer).__name__
    planned: Multiplications = []
    # `optimizer.state[parameter]` would add an entry where there is none.
    for key, value in optimizer.state.get(parameter, {}).items():
        alike = isinstance(value, Tensor) and value.shape == parameter.shape
        if not alike and (not isinstance(value, Tensor) or value.numel() == 1):
            continue  # a count of steps
        if key not in _STATE_DEGREES or not alike:
            raise ValueError(
                f'{name} cannot be rescaled: it is not known how {key!r} of {kind} '
                'follows its scale'
            )
        degree = _STATE_DEGREES[key]
        if (kind, key) in _OTHER_BUFFERS:
            degree = _OTHER_BUFFERS[kind, key]
        # A bias before batch norm has no gradient. What its buffer averages is the
        # decay λb alone, which grows with the bias: λ · cb.
        elif follows and key == 'momentum_buffer':
            degree = -degree
        # Applied gradients are multiplied by clipping/c; steps and decays by c alone.
        multiplier = (clipping if degree > 0 else 1.0) ** degree * c**-degree
        if multiplier != 1:
            planned.append((value, multiplier))
    return planned


def _check_range(
    tensor: Tensor, multiplier: float | Tensor, factors: Mapping[str, float]
) -> None:
    """Refuse a multiplier that the tensor's type rounds to 0 or infinity."""
    limits = torch.finfo(tensor.dtype)
    if isinstance(multiplier, Tensor):
        values = multiplier.double()
        outside = bool(((values < limits.tiny) | (values > limits.max)).any())
    else:
        outside = not limits.tiny <= multiplier <= limits.max
    if outside:
        extreme = max(factors, key=lambda name: abs(math.log(factors[name])))
        raise ValueError(
            f'the factor of {extreme!r} is beyond the range of {tensor.dtype}: '
            f'{factors[extreme]}'
        )
