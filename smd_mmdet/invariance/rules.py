"""What each operation does to degrees: a table from its name to a function.

A rule takes one operation (a :class:`Step`), with the degrees of its inputs, and gives
the degrees of its output. Where an operation leaves a parameter without a degree, the
rule ends the parameter's case with a reason.

    x → relu(x), view(x), ...   d(x)              f(kx) = k · f(x)
    x · y, x * w                d(x) + d(y)       kx · ly = kl · (x · y)
    x / y                       d(x) − d(y)
    x^n                         n · d(x)
    x + y, cat(x, y)            d(x), if it is d(y)
    x + b, one b per channel    d(x), channel by channel and up to a constant
    batch norm                  0, channel by channel
    group norm, layer norm      0, if all channels have one degree
    anything else               none, if it depends on the parameter at all
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .degrees import (
    CONSTANT,
    Degree,
    PerChannel,
    Shape,
    Value,
    layout_of,
    occurring,
    parameters_of,
)
from .findings import Findings, Norm
from .followers import Followers
from .operations import (
    CONVOLUTIONS,
    CUSTOM_PRODUCTS,
    CUTS,
    HOMOGENEOUS,
    KEEP_CHANNELS,
    NORMS_OF_GROUPS,
    PRODUCTS,
    SCALED_PRODUCTS,
    SPREADS,
    SUMS,
    VIEWS,
    Node,
    input_shapes,
    is_batch_norm_operation,
    keeps_channels,
    one_per_channel,
    output_shape,
    saved_attribute,
)
from .owners import Owners

__all__ = ['RULES', 'Rule', 'Step', 'rule_of']


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation of the graph, and where its rule notes what follows from it.

    Args:
        node: Node of the operation.
        operation: Name of the operation.
        inputs: Values of the inputs, in the order of ``node.next_functions``.
        owners: Tells the module that the operation runs in.
        findings: Receives what the operation decides about parameters.
        followers: Receives what the operation says of biases and statistics.
    """

    node: Node
    operation: str
    inputs: Sequence[Value]
    owners: Owners
    findings: Findings
    followers: Followers

    @property
    def place(self) -> str:
        """The operation and the module that it runs in, for messages."""
        return f'{self.operation} in {self.owners.name(self.node)}'

    @property
    def norm(self) -> Norm:
        """The module that the operation is the normalization of, or the place."""
        name = self.owners.norm_name(self.node)
        return Norm(name, True) if name else Norm(self.place, False)

    def saved(self, name: str) -> Any:
        """What the operation keeps for its backward pass."""
        return saved_attribute(self.node, name)


Rule = Callable[[Step], Value]


def rule_of(operation: str) -> Rule:
    """The rule of an operation; one without a rule counts as not homogeneous."""
    if operation in RULES:
        return RULES[operation]
    # Autograd has a name of its own for the kernel of every library.
    if is_batch_norm_operation(operation):
        return _batch_norm
    if operation.startswith(CONVOLUTIONS):
        return _convolution
    return _not_homogeneous


def _not_homogeneous(step: Step) -> Value:
    return _no_degree(step, step.inputs, 'is not homogeneous')


def _no_degree(step: Step, values: Iterable[Value], why: str) -> Value:
    """End the case of all parameters that the values depend on."""
    step.findings.fail_all(values, f'{step.place} {why}')
    return CONSTANT


def _degrees_of_product(
    step: Step, values: Iterable[Value], power: float = 1.0
) -> dict[int, float]:
    """Degrees of the product of some values, raised to a power.

    (k^a · x · k^b · y)^n = k^(n(a + b)) · (x · y)^n. The case of a parameter in which
    one of the values has no single degree ends here: (kx + b) · y has no factor k.
    """
    total: dict[int, float] = {}
    for value in values:
        for parameter, degree in value.degrees.items():
            if isinstance(degree, PerChannel):
                step.findings.fail(parameter, degree.cause)
            else:
                total[parameter] = total.get(parameter, 0.0) + degree * power
    failed = step.findings.failed
    return {p: degree for p, degree in total.items() if degree and p not in failed}


# ---------------------------------------------------------------- one input: x → f(x)


def _view(step: Step) -> Value:
    return _like_first(step, still_spread=step.inputs[0].spread)


def _homogeneous(step: Step) -> Value:
    return _like_first(step, still_spread=False)


def _like_first(step: Step, still_spread: bool) -> Value:
    """The degrees of the first input, which is the only one that may have any."""
    value = step.inputs[0]
    _no_degree(step, step.inputs[1:], 'is not homogeneous')
    if not any(isinstance(degree, PerChannel) for degree in value.degrees.values()):
        return Value(value.degrees, still_spread)
    if not _leaves_channels(step):
        return Value(_degrees_of_product(step, [value]), value.spread)
    return value.without_layouts() if step.operation in CUTS else value


def _leaves_channels(step: Step) -> bool:
    """Whether every channel of the output is made of one channel of the input."""
    if step.operation in ('View', 'UnsafeView', 'ReshapeAlias'):
        return keeps_channels(input_shapes(step.node)[0], output_shape(step.node))
    return step.operation in KEEP_CHANNELS


def _power(step: Step, exponent: float, spread: bool | None = None) -> Value:
    """The first input to a power; ``spread`` None: it is one if the input is."""
    value = step.inputs[0]
    degrees = _degrees_of_product(step, [value], exponent)
    return Value(degrees, value.spread if spread is None else spread)


def _pow(step: Step) -> Value:
    exponent = step.saved('exponent')
    if not isinstance(exponent, (int, float)) or len(step.inputs) > 1:
        return _not_homogeneous(step)
    spread = step.inputs[0].spread or exponent % 2 == 0
    return _power(step, float(exponent), spread)


def _clamp(step: Step) -> Value:
    # A lower bound of 0 is a ReLU. Any other is homogeneous in nothing, but for a
    # statistic, where it is the ε.
    low, high = step.saved('min'), step.saved('max')
    if high is None and (step.inputs[0].spread or low == 0):
        return _power(step, 1.0)
    return _not_homogeneous(step)


# ------------------------------------------------------------------ products: x, y → xy


def _product(
    step: Step, factors: Iterable[int], bias: int | None = None, biased: bool = False
) -> Value:
    """The product of some inputs, plus a bias.

    Args:
        step: The operation.
        factors: Places of the inputs that are multiplied with each other.
        bias: Place of the input that is added.
        biased: Whether something is added. Its place may be beyond the inputs, since
            constants at the end have no place in the graph.

    Returns:
        Value of the output.
    """
    inputs = step.inputs
    places = [i for i in factors if i < len(inputs)]
    others = [inputs[i] for i in range(len(inputs)) if i not in (*places, bias)]
    _no_degree(step, others, 'is not homogeneous in it')
    degrees = _degrees_of_product(step, [inputs[i] for i in places])
    if not biased:
        # x · x is a square, and the product of two statistics is a statistic.
        edges = step.node.next_functions
        spread = all(edges[i] == edges[0] or inputs[i].spread for i in places)
        return Value(degrees, spread and len(places) == 2)
    added = inputs[bias] if bias is not None and bias < len(inputs) else CONSTANT
    return _shifted(step, degrees, added, f'a bias is added to it ({step.place})')


def _shifted(
    step: Step, degrees: Mapping[int, float], bias: Value, cause: str
) -> Value:
    """A value plus one number for each of its channels.

    A number of the same degree changes nothing: kx + kb = k(x + b). With any other
    only the statistics of single channels remove it, and the factor with it.
    """
    step.followers.note_addition(bias, degrees, step.place)
    shifted: dict[int, Degree] = dict(degrees)
    for parameter in degrees.keys() | bias.degrees.keys():
        degree = degrees.get(parameter, 0.0)
        if degree != bias.degrees.get(parameter, 0.0):
            shifted[parameter] = PerChannel(occurring(degree), cause)
    return Value(shifted)


def _product_of_all(step: Step) -> Value:
    return _product(step, range(len(step.inputs)))


def _scaled_product(step: Step) -> Value:
    return _product(step, (1, 2), bias=0, biased=True)


def _convolution(step: Step) -> Value:
    # The graph has no edge for a frozen bias, just as for none at all. The size of the
    # bias, which the node keeps, tells them apart: 0 elements, or nothing, for none.
    sizes = step.saved('bias_sym_sizes_opt') or (0,)
    return _product(step, (0, 1), bias=2, biased=math.prod(sizes) > 0)


def _custom_product(step: Step) -> Value:
    factors, bias = CUSTOM_PRODUCTS[step.operation]
    biased = bias is not None and bool(getattr(step.node, 'with_bias', True))
    return _product(step, factors, bias, biased)


def _mul(step: Step) -> Value:
    factor = step.saved('other')
    constant = len(step.inputs) == 1 or step.node.next_functions[1][0] is None
    if not (constant and isinstance(factor, Tensor) and factor.dim() == 0):
        return _product_of_all(step)
    # A literal 0 (`pred.sum() * 0`, the usual way to keep a parameter in the graph)
    # removes what it multiplies. A tensor of zeros may be an accident of this batch.
    if not factor.is_complex() and float(factor) == 0:
        for parameter in step.inputs[0].degrees:
            step.findings.cancel(parameter, f'a factor 0 ({step.place})')
        return CONSTANT
    return _power(step, 1.0)


def _div(step: Step) -> Value:
    numerator, denominator = (*step.inputs, CONSTANT)[:2]
    inverse = Value(_degrees_of_product(step, [denominator], -1.0))
    return Value(_degrees_of_product(step, [numerator, inverse]), numerator.spread)


def _weight_norm(step: Step) -> Value:
    # g · v / ‖v‖ has degree 0 in v, its first input, and degree 1 in g.
    _degrees_of_product(step, step.inputs[:1])
    return Value(_degrees_of_product(step, step.inputs[1:]))


# --------------------------------------------------------------- sums: x, y → x + y


def _add(step: Step) -> Value:
    """x + y, where one of them may be an ε, or a bias of every channel."""
    value = next((one for one in step.inputs if one.degrees), step.inputs[-1])
    if value.spread and _adds_a_constant(step):
        return value
    whole = output_shape(step.node)
    narrow = [one_per_channel(shape, whole) for shape in input_shapes(step.node)]
    if sum(narrow) != 1:
        return _sum(step)
    terms = (*step.inputs, CONSTANT)[:2]
    bias, other = terms if narrow[0] else reversed(terms)
    cause = f'{step.place} joins it with terms of another degree'
    return _shifted(step, _degrees_of_product(step, [other]), bias, cause)


def _adds_a_constant(step: Step) -> bool:
    edges = step.node.next_functions
    return len(edges) == 1 or any(child is None for child, _ in edges)


def _sum(step: Step) -> Value:
    """A sum or a choice: kx + ky = k(x + y), but kx + y is not homogeneous."""
    values = step.inputs
    if len(values) == 1 and step.operation not in ('Cat', 'Stack'):
        # A number, as in 1 − x, has no place in the graph.
        values = [*values, CONSTANT]
    cause = f'{step.place} joins it with terms of another degree'
    degrees: dict[int, Degree] = {}
    for parameter in parameters_of(values):
        found = [value.degrees.get(parameter, 0.0) for value in values]
        mixed = [degree for degree in found if isinstance(degree, PerChannel)]
        if mixed:
            step.findings.fail(parameter, mixed[0].cause)
        elif all(degree == found[0] for degree in found):
            degrees[parameter] = found[0]
        else:
            step.findings.fail(parameter, cause)
    return Value(degrees, all(value.spread for value in values))


def _cat(step: Step) -> Value:
    """Values side by side; along the channels each may keep a degree of its own."""
    dim = step.saved('dim')
    if dim not in (1, None):
        return _sum(step)
    values = step.inputs
    cause = f'{step.place} joins it with terms of another degree'
    shapes = _shapes_side_by_side(step)
    degrees: dict[int, Degree] = {}
    for parameter in parameters_of(values):
        found = [value.degrees.get(parameter, 0.0) for value in values]
        if all(degree == found[0] and isinstance(degree, float) for degree in found):
            degrees[parameter] = found[0]
            continue
        causes = [degree.cause for degree in found if isinstance(degree, PerChannel)]
        layouts = [
            layout_of(degree, shape)
            for degree, shape in zip(found, shapes, strict=True)
        ]
        known = [layout for layout in layouts if layout is not None]
        whole = dim == 1 and len(known) == len(layouts)
        degrees[parameter] = PerChannel(
            frozenset().union(*map(occurring, found)),
            causes[0] if causes else cause,
            tuple(run for layout in known for run in layout) if whole else None,
        )
    return Value(degrees)


def _shapes_side_by_side(step: Step) -> list[Shape | None]:
    """Shapes of what is joined by channels.

    A constant has no shape in the graph. If there is a single one, it has the channels
    that the others leave of the output's.
    """
    shapes = input_shapes(step.node)
    whole = output_shape(step.node)
    if shapes.count(None) == 1 and whole is not None and len(whole) > 1:
        rest = whole[1] - sum(shape[1] for shape in shapes if shape is not None)
        shapes[shapes.index(None)] = (whole[0], rest, *whole[2:])
    return shapes


# ---------------------------------------------------------------------------- norms


def _batch_norm(step: Step) -> Value:
    """Subtract the mean of every channel and divide by its standard deviation.

    (kx + b − k·mean(x) − b) / (k·std(x)) has neither k nor b in it.
    """
    norm = step.norm
    if step.saved('training') is False:
        reason = f'{norm.name} uses fixed statistics (eval mode)'
        step.findings.fail_all(step.inputs, reason)
        return CONSTANT
    for parameter, degree in step.inputs[0].degrees.items():
        if any(occurring(degree)):
            step.findings.normalize(parameter, norm)
        else:
            step.findings.cancel(parameter, norm.name)
    return _affine(step, norm)


def _group_norm(step: Step) -> Value:
    """Normalize several channels by one mean and standard deviation."""
    grouped = step.operation == 'NativeGroupNorm'
    if grouped and step.saved('C') == step.saved('group'):
        return _batch_norm(step)  # every group is a single channel
    norm = step.norm
    for parameter, degree in step.inputs[0].degrees.items():
        if isinstance(degree, PerChannel):
            together = f'{norm.name} normalizes several channels together'
            step.findings.fail(parameter, f'{degree.cause}, and {together}')
        else:
            step.findings.normalize(parameter, norm)
    return _affine(step, norm)


def _affine(step: Step, norm: Norm) -> Value:
    """Output γz + β of a norm, with z of degree 0 in everything.

    It has degree 1 in γ and 0 in β, channel by channel and up to a constant.
    """
    weight, bias = (*step.inputs[1:], CONSTANT, CONSTANT)[:2]
    added_to = _degrees_of_product(step, [weight])
    step.followers.note_addition(bias, added_to, step.place)
    cause = f'it is a weight or bias of {norm.name}'
    degrees: dict[int, Degree] = {}
    for value, is_factor in ((weight, True), (bias, False)):
        for parameter, degree in value.degrees.items():
            if isinstance(degree, PerChannel):
                step.findings.fail(parameter, degree.cause)
            else:
                effect = degree if is_factor else 0.0
                degrees[parameter] = PerChannel(frozenset({effect}), cause)
    return Value(degrees)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(VIEWS, _view),
    **dict.fromkeys(HOMOGENEOUS, _homogeneous),
    **dict.fromkeys(SPREADS, functools.partial(_power, exponent=1.0, spread=True)),
    'Square': functools.partial(_power, exponent=2.0, spread=True),
    'Var': functools.partial(_power, exponent=2.0, spread=True),
    'VarMean': functools.partial(_power, exponent=2.0, spread=True),
    'Sqrt': functools.partial(_power, exponent=0.5),
    'Rsqrt': functools.partial(_power, exponent=-0.5),
    'Reciprocal': functools.partial(_power, exponent=-1.0),
    'Pow': _pow,
    'Clamp': _clamp,
    'ClampMin': _clamp,
    **dict.fromkeys(PRODUCTS, _product_of_all),
    **dict.fromkeys(SCALED_PRODUCTS, _scaled_product),
    **dict.fromkeys(CUSTOM_PRODUCTS, _custom_product),
    'Mul': _mul,
    'Div': _div,
    'WeightNormInterface': _weight_norm,
    **dict.fromkeys(SUMS, _sum),
    'Add': _add,
    'Sub': _add,
    'Cat': _cat,
    **dict.fromkeys(NORMS_OF_GROUPS, _group_norm),
}
