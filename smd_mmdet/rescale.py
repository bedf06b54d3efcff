"""Function-preserving rescaling of scale-invariant weights.

The loss does not depend on the norm of a scale-invariant weight, but the angle that a
step turns it through does. So weights can be put at any norm at any time, their
equilibrium for one, and the network stays the function it is.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from smd_mmdet.invariance import Dependents, find_dependents

# Powers of a gradient in what optimizers keep of it; it grows by 1/c.
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
# Here the buffer is one of normalized gradients.
_NORMALIZED = {('RMSprop', 'momentum_buffer'): 0}


class ConflictError(ValueError):
    """Factors that do not fit together.

    Args:
        message: What is wrong.
        names: The weights with a part in it.
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
    inputs: Sequence | None = None,
    dependents: Dependents | None = None,
    copies: Iterable[nn.Module] = (),
) -> None:
    """Multiply scale-invariant weights, and whatever follows, in place.

    With a weight w → cw its gradient becomes g/c. So the optimizer's averages of
    gradients are divided by c, those of squares by c², and a gradient that is there
    by c. What the scaled output feeds follows too: biases × c, running means × c,
    running variances × c² (products of the factors where several weights come
    before one norm). Outputs in evaluation mode and losses in training mode stay what
    they are, up to the norms' ε.

    Args:
        model: The model, wrapped for DDP or not.
        optimizer: Its optimizer, None to leave gradients' averages out.
        names: Names of scale-invariant weights.
        factor: c > 0, or one for each name.
        inputs: Positional arguments of one forward pass to observe; see
            :func:`~smd_mmdet.invariance.find_dependents`.
        dependents: What that function found, where it is known already.
        copies: Models to scale alike: averages of this one's weights.

    Raises:
        ValueError: If a name is unknown or not scale-invariant, a factor is not
            positive and finite, or what follows a weight cannot follow. Nothing is
            changed then.

    Example:
        >>> rescale_(model, optimizer, ['backbone.conv1.weight'], 10 ** -0.25)
    """
    model = unwrapped(model)
    factors = check_factors(model, names, factor)
    if dependents is None:
        dependents = find_dependents(model, inputs)
    apply(plan(model, optimizer, factors, dependents, copies))


Multiplications = list[tuple[Tensor, float | Tensor]]


def plan(
    model: nn.Module,
    optimizer: Optimizer | None,
    factors: Mapping[str, float],
    dependents: Dependents,
    copies: Iterable[nn.Module] = (),
) -> Multiplications:
    """Everything that a rescaling multiplies, without doing it.

    Args:
        model: The model, without a DDP wrapper.
        optimizer: As for :func:`rescale_`; likewise ``copies``.
        factors: By name of weight.
        dependents: What follows them.

    Returns:
        Tensors and their multipliers.

    Raises:
        ConflictError: If factors do not fit together.
        ValueError: If a weight cannot be rescaled.
    """
    for name in factors:
        if reason := dependents.refused.get(name, 'the forward pass does not use it'):
            raise ValueError(f'{name} cannot be rescaled: {reason}')
    parameters = {**factors, **bias_factors(dependents, factors)}
    statistics = statistics_factors(dependents, factors)
    planned: Multiplications = []
    for one in (model, *map(unwrapped, copies)):
        known = dict(one.named_parameters())
        planned += [(known[name].data, c) for name, c in parameters.items()]
        for name, scale in statistics.items():
            planned += _of_statistics(one.get_submodule(name), scale)
    known = dict(model.named_parameters())
    for name, c in parameters.items():
        if known[name].grad is not None:
            planned.append((known[name].grad, 1 / c))
        if optimizer is not None:
            planned += _of_state(optimizer, name, known[name], c, name in factors)
    for tensor, multiplier in planned:
        _check_range(tensor, multiplier, factors)
    return planned


@torch.no_grad()
def apply(planned: Multiplications) -> None:
    """Multiply."""
    for tensor, multiplier in planned:
        tensor.mul_(multiplier)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a wrapper for DDP."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return model.module if isinstance(model, wrappers) else model


def check_factors(
    model: nn.Module,
    names: Iterable[str] | str,
    factor: float | Mapping[str, float],
) -> dict[str, float]:
    """One valid factor per weight, by its first name.

    Raises:
        ValueError: As :func:`rescale_`.
    """
    names = [names] if isinstance(names, str) else list(names)
    every = dict(model.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in model.named_parameters()}
    if isinstance(factor, Mapping):
        for name in factor.keys() - set(names):
            raise ValueError(f'factor has {name!r}, which is not among the names')
    factors: dict[str, float] = {}
    for name in names:
        if name not in every:
            close = difflib.get_close_matches(str(name), every, n=1)
            hint = f'; did you mean {close[0]!r}?' if close else ''
            raise ValueError(f'the model has no parameter {name!r}{hint}')
        if isinstance(factor, Mapping) and name not in factor:
            raise ValueError(f'factor has no entry for {name!r}')
        c = factor[name] if isinstance(factor, Mapping) else factor
        if isinstance(c, bool) or not isinstance(c, numbers.Real):
            raise ValueError(f'the factor of {name!r} must be a number, got {c!r}')
        c = float(c)
        if not (c > 0 and math.isfinite(c)):
            raise ValueError(f'the factor of {name!r} must be > 0 and finite, got {c}')
        if factors.setdefault(first[id(every[name])], c) != c:
            raise ValueError(f'{name!r} is tied to a weight with another factor')
    return factors


def bias_factors(
    dependents: Dependents, factors: Mapping[str, float]
) -> dict[str, float]:
    """Factors of the biases that follow, by name.

    Raises:
        ConflictError: If the uses of one call for different factors.
    """
    found = {}
    for name, uses in dependents.biases.items():
        products = [_product(use.items(), factors) for use in uses]
        _check_equal(name, products, uses, factors)
        if products[0] == 1:
            continue
        if name in factors:
            raise ValueError(f'{name} cannot be rescaled: it follows other weights')
        found[name] = products[0]
    return found


def statistics_factors(
    dependents: Dependents, factors: Mapping[str, float]
) -> dict[str, tuple[tuple[int, float], ...]]:
    """Factors of what each norm normalizes, by name: numbers of channels, factor.

    Raises:
        ConflictError: If the calls of one norm call for different factors.
    """
    found = {}
    for name, calls in dependents.statistics.items():
        scales = [_scale_of_channels(call, factors) for call in calls]
        _check_equal(name, [_channels(scale) for scale in scales], calls, factors)
        if any(c != 1 for _, c in scales[0]):
            found[name] = scales[0]
    return found


def _product(degrees: Iterable, factors: Mapping[str, float]) -> float:
    logs = (degree * math.log(factors.get(weight, 1)) for weight, degree in degrees)
    # A single weight of degree 1, the usual case, without a rounding.
    terms = [(weight, degree) for weight, degree in degrees if weight in factors]
    if len(terms) == 1 and terms[0][1] == 1:
        return factors[terms[0][0]]
    return math.exp(math.fsum(logs)) if terms else 1.0


def _scale_of_channels(call: Mapping, factors: Mapping[str, float]):
    layouts = {p: layout for p, layout in call.items() if p in factors}
    if not layouts:
        return ((1, 1.0),)
    ends = sorted({end for layout in layouts.values() for end in _ends(layout)})
    scale, start = [], 0
    for end in ends:
        degrees = [(p, _degree_at(layout, start)) for p, layout in layouts.items()]
        scale.append((end - start, _product([d for d in degrees if d[1]], factors)))
        start = end
    if len({c for _, c in scale}) == 1:
        return ((1, scale[0][1]),)
    return tuple(scale)


def _ends(layout) -> list[int]:
    ends, end = [], 0
    for channels, _ in layout:
        end += channels
        ends.append(end)
    return ends


def _degree_at(layout, channel: int) -> float:
    for (_, degree), end in zip(layout, _ends(layout), strict=True):
        if channel < end:
            return degree
    return 0.0


def _channels(scale) -> float | list[float]:
    """The factor of every channel; one number if it is the same for all."""
    if len(scale) == 1:
        return scale[0][1]
    return [c for channels, c in scale for _ in range(channels)]


def _check_equal(name: str, values: list, uses, factors) -> None:
    first = torch.tensor(values[0], dtype=torch.float64)
    for value in values[1:]:
        other = torch.tensor(value, dtype=torch.float64)
        if not torch.allclose(first, other, rtol=1e-9, atol=0):
            involved = {p for use in uses for p in use} & factors.keys()
            raise ConflictError(
                f'{min(involved)} cannot be rescaled: {name} also serves what is not '
                'scaled alike',
                involved,
            )


def _of_statistics(norm: Any, scale) -> Multiplications:
    factor = _channels(scale)
    mean, variance = norm.running_mean, norm.running_var
    if isinstance(factor, float):
        return [(mean, factor), (variance, factor**2)]
    factors = torch.tensor(factor, dtype=torch.float64, device=mean.device)
    return [(mean, factors.to(mean)), (variance, factors.square().to(variance))]


def _of_state(optimizer, name: str, parameter, c: float, is_weight: bool):
    kind = type(optimizer).__name__
    planned: Multiplications = []
    # .get: indexing the optimizer's state would add an entry to it.
    for key, value in optimizer.state.get(parameter, {}).items():
        alike = isinstance(value, Tensor) and value.shape == parameter.shape
        if not alike and (not isinstance(value, Tensor) or value.numel() == 1):
            continue  # a count of steps
        if key not in _STATE_DEGREES or not alike:
            raise ValueError(
                f'{name} cannot be rescaled: it is not known how {key!r} of {kind} '
                'follows its scale'
            )
        degree = _NORMALIZED.get((kind, key), _STATE_DEGREES[key])
        # A bias before batch norm has no gradient: its buffer holds decay alone.
        if not is_weight and key == 'momentum_buffer':
            degree = -degree
        if degree:
            planned.append((value, c**-degree))
    return planned


def _check_range(tensor: Tensor, multiplier, factors: Mapping[str, float]) -> None:
    values = torch.as_tensor(multiplier, dtype=torch.float64)
    limits = torch.finfo(tensor.dtype)
    if bool(((values < limits.tiny) | (values > limits.max)).any()):
        extreme = max(factors, key=lambda name: abs(math.log(factors[name])))
        raise ValueError(
            f'the factor of {extreme!r} is beyond the range of {tensor.dtype}: '
            f'{factors[extreme]}'
        )
