"""Degrees of homogeneity carried through a graph, from the parameters to the loss."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from torch import Tensor, nn

from .operations import (
    CONSTANT,
    CONVOLUTIONS,
    CUSTOM_PRODUCTS,
    HOMOGENEOUS,
    PRODUCTS,
    RESHAPES,
    SCALED_PRODUCTS,
    SPREADS,
    SUMS,
    VIEWS,
    Degree,
    Degrees,
    Layout,
    PerChannel,
    Value,
    keeps_channels,
    layout_of,
    one_per_channel,
    operation_of,
    output_shape,
    saved_attribute,
)
from .owners import Owners

# Views that may leave some channels out.
CUTS = frozenset({'Slice', 'Split', 'SplitWithSizes', 'UnsafeSplit'})


class Walk:
    """Abstract interpretation of one graph, from the parameters to the outputs."""

    def __init__(self, parameters: Iterable[nn.Parameter], owners: Owners) -> None:
        self._parameters = {id(p) for p in parameters}
        self._owners = owners
        self._values: dict[object, Value] = {}
        self.trained = self._parameters
        self.reached: set[int] = set()
        self.failed: dict[int, str] = {}
        # Insertion order is the order of the forward pass: the first one is named.
        self.norms: dict[int, dict[str, None]] = {}
        self.constructed: dict[int, str] = {}
        self.cancelled: dict[int, str] = {}
        # What must be scaled too, for the stored statistics to fit. A bias: the
        # degrees of what it is added to, at each of its uses; other uses are counted.
        self.shifts: dict[int, list[Degrees]] = {}
        self.uses: dict[int, int] = {}
        # A norm with running statistics: the degrees of its input, at each call.
        self.statistics: dict[str, list[dict[int, Layout]]] = {}
        # Where what must be scaled too is out of reach, and why.
        self.unmet: dict[int, str] = {}

    def run(self, outputs: Sequence[Tensor]) -> None:
        for output in outputs:
            if output.grad_fn is None:
                self._end(output)
                continue
            for node in self._in_order(output.grad_fn):
                self._values[node] = self._value(node)
            for parameter, degree in self._values[output.grad_fn].degrees.items():
                self._end_case(parameter, degree)

    def _end(self, output: Tensor) -> None:
        if id(output) in self._parameters:
            self.reached.add(id(output))
            self._fail(id(output), 'it is an output itself')

    def _end_case(self, parameter: int, degree: Degree) -> None:
        if isinstance(degree, PerChannel):
            self._fail(parameter, degree.cause)
        else:
            self._fail(
                parameter,
                f'the output scales with it (degree {degree:g}): no normalization '
                'between them',
            )

    def _in_order(self, root) -> Iterator[object]:
        """Nodes not yet valued, every one after its inputs."""
        stack = [(root, iter(root.next_functions))]
        seen = {root}
        if root in self._values:
            return
        while stack:
            node, edges = stack[-1]
            for child, _ in edges:
                if child is None or child in seen or child in self._values:
                    continue
                seen.add(child)
                stack.append((child, iter(child.next_functions)))
                break
            else:
                stack.pop()
                yield node

    def _fail(self, parameter: int, reason: str) -> None:
        self.failed.setdefault(parameter, reason)

    def _mixed(self, values: Iterable[Value], reason: str) -> Value:
        for value in values:
            for parameter, degree in value.degrees.items():
                own = degree.cause if isinstance(degree, PerChannel) else None
                self._fail(parameter, own or reason)
        return CONSTANT

    def _place(self, node) -> str:
        return f'{operation_of(node)} in {self._owners.name(node)}'

    def _value(self, node) -> Value:
        operation = operation_of(node)
        if operation == 'AccumulateGrad':
            parameter = id(node.variable)
            if parameter not in self._parameters:
                return CONSTANT
            self.reached.add(parameter)
            return Value({parameter: 1.0}, leaf=parameter)
        inputs = [
            CONSTANT if child is None else self._input(child, output)
            for child, output in node.next_functions
        ]
        reshaped = inputs[0].leaf if inputs and operation in RESHAPES else None
        if reshaped is None:
            for leaf in (value.leaf for value in inputs if value.leaf is not None):
                self.uses[leaf] = self.uses.get(leaf, 0) + 1
        if 'BatchNorm' in operation or 'InstanceNorm' in operation:
            self._note_statistics(node, inputs[0])
        if not any(value.degrees for value in inputs):
            return CONSTANT if reshaped is None else Value({}, leaf=reshaped)
        value = self._rule(node, operation, inputs)
        self._note_division(node, inputs, value)
        if reshaped is not None:
            value = dataclasses.replace(value, leaf=reshaped)
        return value

    def _input(self, child, output: int) -> Value:
        """Value of an input without the parameters whose case has ended."""
        value = self._values[child]
        if output == 1 and operation_of(child) == 'VarMean':
            value = Value({p: cast(float, d) / 2 for p, d in value.degrees.items()})
        if value.degrees and not self.failed.keys().isdisjoint(value.degrees):
            degrees = {
                p: degree for p, degree in value.degrees.items() if p not in self.failed
            }
            return Value(degrees, value.spread, value.leaf)
        return value

    def _note_statistics(self, node, value: Value) -> None:
        if saved_attribute(node, 'training') is False:
            return
        name = self._owners.statistics(node)
        layouts = {}
        for p, degree in value.degrees.items():
            degrees = degree.degrees if isinstance(degree, PerChannel) else {degree}
            if not any(degrees):
                continue
            layout = layout_of(degree, output_shape(*node.next_functions[0]))
            if layout is None:
                self.unmet.setdefault(
                    p, f'which channels of {self._norm(node)} it feeds is not clear'
                )
            else:
                layouts[p] = layout
            if name is None and saved_attribute(node, 'running_mean') is not None:
                self.unmet.setdefault(
                    p, f'{self._norm(node)} has running statistics of no module'
                )
        if name is not None:
            self.statistics.setdefault(name, []).append(layouts)

    def _note_shift(self, node, bias: Value, degrees: Degrees) -> None:
        """Remember that a bias is added to a value of these degrees."""
        if bias.leaf is not None:
            self.shifts.setdefault(bias.leaf, []).append(degrees)
            return
        for p, degree in degrees.items():
            if bias.degrees.get(p) == degree:
                continue
            self.unmet.setdefault(
                p, f'what is added to it in {self._place(node)} is no parameter'
            )

    def _note_division(self, node, inputs: list[Value], value: Value) -> None:
        """Remember what became invariant here by arithmetic, without a norm."""
        for one in inputs:
            for p in one.degrees:
                if p in value.degrees or p in self.failed or p in self.norms:
                    continue
                if p in self.cancelled:
                    continue
                self.constructed.setdefault(p, self._place(node))
                if self._owners.statistics(node) is not None:
                    self.unmet.setdefault(
                        p, f'{self._place(node)} may keep statistics of its own'
                    )

    # ------------------------------------------------------------------------- rules

    def _rule(self, node, operation: str, inputs: list[Value]) -> Value:
        if 'BatchNorm' in operation or 'InstanceNorm' in operation:
            return self._batch_norm(node, inputs)
        if operation in ('NativeGroupNorm', 'NativeLayerNorm', 'FusedRmsNorm'):
            return self._group_norm(node, operation, inputs)
        if operation.startswith(CONVOLUTIONS):
            # (0,) stands for no bias; the edge alone cannot tell a frozen one.
            biased = math.prod(saved_attribute(node, 'bias_sym_sizes_opt') or (0,)) > 0
            return self._product(node, inputs, (0, 1), 2, biased)
        if operation in CUSTOM_PRODUCTS:
            factors, bias = CUSTOM_PRODUCTS[operation]
            biased = bias is not None and bool(getattr(node, 'with_bias', True))
            return self._product(node, inputs, factors, bias, biased)
        if operation in VIEWS or operation in HOMOGENEOUS:
            return self._unary(node, operation, inputs)
        if operation in SUMS:
            return self._sum(node, operation, inputs)
        rule = getattr(self, f'_rule_{operation.lower()}', None)
        if rule is not None:
            return rule(node, inputs)
        if operation in SPREADS:
            return Value(self._pure(inputs[:1]), spread=True)
        if operation in PRODUCTS:
            return self._product(node, inputs, range(len(inputs)))
        if operation in SCALED_PRODUCTS:
            return self._product(node, inputs, (1, 2), 0, biased=True)
        return self._mixed(inputs, f'{self._place(node)} is not homogeneous')

    def _pure(self, inputs: Iterable[Value], times: float = 1.0) -> Degrees:
        """Sum of the inputs' degrees; ends the case of those without a single one."""
        total: dict[int, float] = {}
        for value in inputs:
            for p, degree in value.degrees.items():
                if isinstance(degree, PerChannel):
                    self._fail(p, degree.cause)
                    continue
                total[p] = total.get(p, 0.0) + degree * times
        return {p: d for p, d in total.items() if d != 0 and p not in self.failed}

    def _unary(self, node, operation: str, inputs: list[Value]) -> Value:
        value = inputs[0]
        self._mixed(inputs[1:], f'{self._place(node)} is not homogeneous')
        if any(isinstance(d, PerChannel) for d in value.degrees.values()):
            if self._channels_stay(node, operation):
                return _cut(value) if operation in CUTS else value
            return Value(self._pure([value]), value.spread)
        spread = value.spread and operation in VIEWS
        return Value(value.degrees, spread)

    def _channels_stay(self, node, operation: str) -> bool:
        if operation in (
            'Clone',
            'ToCopy',
            'Alias',
            'Slice',
            'Split',
            'Contiguous',
            'SplitWithSizes',
            'UnsafeSplit',
            'MaxPool2DWithIndices',
        ):
            return True
        if operation in ('View', 'UnsafeView', 'ReshapeAlias'):
            child, output = node.next_functions[0]
            return keeps_channels(output_shape(child, output), output_shape(node))
        return False

    def _sum(self, node, operation: str, inputs: list[Value]) -> Value:
        if operation in ('Add', 'Sub') and (len(inputs) == 1 or self._is_eps(node)):
            value = inputs[0] if inputs[0].degrees else inputs[-1]
            if value.spread:
                return value
        if len(inputs) == 1:
            inputs = [*inputs, CONSTANT]
        if operation == 'Cat' and saved_attribute(node, 'dim') in (1, None):
            return self._cat_channels(node, inputs)
        if operation in ('Add', 'Sub') and len(inputs) == 2:
            per_channel = [
                child is not None
                and one_per_channel(output_shape(child, nr), output_shape(node))
                for child, nr in node.next_functions
            ]
            if sum(per_channel) == 1:
                shift = per_channel.index(True)
                return self._shift(node, inputs[1 - shift], inputs[shift])
        cause = f'{self._place(node)} joins it with terms of another degree'
        degrees: Degrees = {}
        for p in {p for value in inputs for p in value.degrees}:
            found = [value.degrees.get(p, 0.0) for value in inputs]
            if any(isinstance(d, PerChannel) for d in found):
                own = next(d for d in found if isinstance(d, PerChannel))
                self._fail(p, own.cause)
            elif all(d == found[0] for d in found):
                degrees[p] = found[0]
            else:
                self._fail(p, cause)
        return Value(degrees, all(value.spread for value in inputs))

    def _shift(self, node, value: Value, bias: Value) -> Value:
        """A value and what is added to each of its channels."""
        cause = f'{self._place(node)} joins it with terms of another degree'
        self._note_shift(node, bias, self._pure([value]))
        return Value(self._shifted(node, value, bias, cause))

    def _shifted(self, node, value: Value, bias: Value, cause: str) -> Degrees:
        degrees = self._pure([value])
        for p in degrees.keys() | bias.degrees.keys():
            degree = degrees.get(p, 0.0)
            if degree != bias.degrees.get(p, 0.0):
                degrees[p] = PerChannel(frozenset({cast(float, degree)}), cause)
        return degrees

    @staticmethod
    def _is_eps(node) -> bool:
        return len(node.next_functions) == 2 and any(
            child is None for child, _ in node.next_functions
        )

    def _cat_channels(self, node, inputs: list[Value]) -> Value:
        cause = f'{self._place(node)} joins it with terms of another degree'
        degrees: Degrees = {}
        for p in {p for value in inputs for p in value.degrees}:
            found = [value.degrees.get(p, 0.0) for value in inputs]
            if all(d == found[0] and isinstance(d, float) for d in found):
                degrees[p] = found[0]
                continue
            every = [
                d.degrees if isinstance(d, PerChannel) else frozenset({d})
                for d in found
            ]
            causes = [d.cause for d in found if isinstance(d, PerChannel)]
            layouts = [
                layout_of(degree, shape)
                for degree, shape in zip(found, _joined_shapes(node), strict=True)
            ]
            known = None not in layouts and saved_attribute(node, 'dim') == 1
            degrees[p] = PerChannel(
                frozenset().union(*every),
                causes[0] if causes else cause,
                tuple(run for layout in layouts for run in layout) if known else None,
            )
        return Value(degrees)

    def _product(
        self,
        node,
        inputs: list[Value],
        factors: Iterable[int],
        bias: int | None = None,
        biased: bool = False,
    ) -> Value:
        factors = [i for i in factors if i < len(inputs)]
        others = [
            value for i, value in enumerate(inputs) if i not in factors and i != bias
        ]
        self._mixed(others, f'{self._place(node)} is not homogeneous in it')
        degrees = self._pure([inputs[i] for i in factors])
        if not biased:
            spread = all(inputs[i] is inputs[0] or inputs[i].spread for i in factors)
            return Value(degrees, spread and len(factors) == 2)
        added = inputs[bias] if bias < len(inputs) else CONSTANT
        cause = f'a bias is added to it ({self._place(node)})'
        self._note_shift(node, added, degrees)
        return Value(self._shifted(node, Value(degrees), added, cause))

    def _batch_norm(self, node, inputs: list[Value]) -> Value:
        training = saved_attribute(node, 'training')
        if training is False:
            self._mixed(inputs, f'{self._norm(node)} uses fixed statistics (eval mode)')
            return CONSTANT
        for p, degree in inputs[0].degrees.items():
            degrees = degree.degrees if isinstance(degree, PerChannel) else {degree}
            if any(d != 0 for d in degrees):
                self._normalized(p, node)
            else:
                self.cancelled.setdefault(p, self._norm(node))
        return self._affine(node, inputs[1:])

    def _group_norm(self, node, operation: str, inputs: list[Value]) -> Value:
        if operation == 'NativeGroupNorm' and node._saved_C == node._saved_group:
            return self._batch_norm(node, inputs)
        for p, degree in inputs[0].degrees.items():
            if isinstance(degree, PerChannel):
                self._fail(
                    p,
                    f'{degree.cause}, and {self._norm(node)} normalizes several '
                    'channels together',
                )
            else:
                self._normalized(p, node)
        return self._affine(node, inputs[1:])

    def _affine(self, node, inputs: Sequence[Value]) -> Value:
        """Output of a norm: of degree 0, but for its own weight and bias."""
        cause = f'it is a weight or bias of {self._norm(node)}'
        shift = inputs[1] if len(inputs) > 1 else CONSTANT
        self._note_shift(node, shift, self._pure(inputs[:1]))
        degrees: Degrees = {}
        for position, value in enumerate(inputs[:2]):
            for p, degree in value.degrees.items():
                if isinstance(degree, PerChannel):
                    self._fail(p, degree.cause)
                else:
                    effect = 0.0 if position else degree
                    degrees[p] = PerChannel(frozenset({effect}), cause)
        return Value(degrees)

    def _norm(self, node) -> str:
        return self._owners.norm_name(node) or self._place(node)

    def _normalized(self, p: int, node) -> None:
        name = self._owners.norm_name(node)
        self.norms.setdefault(p, {})[name or f'\0{self._place(node)}'] = None

    def _rule_div(self, node, inputs: list[Value]) -> Value:
        numerator, denominator = (*inputs, CONSTANT)[:2]
        inverse = Value(self._pure([denominator], -1.0))
        return Value(self._pure([numerator, inverse]), numerator.spread)

    def _rule_mul(self, node, inputs: list[Value]) -> Value:
        factor = saved_attribute(node, 'other')
        constant = len(inputs) == 1 or node.next_functions[1][0] is None
        # A literal 0 (`pred.sum() * 0`, the usual way to keep a parameter in the
        # graph) has no effect; a tensor of zeros may be an accident of this batch.
        if constant and isinstance(factor, Tensor) and factor.dim() == 0:
            zero = not factor.is_complex() and float(factor) == 0
            if zero:
                for p in inputs[0].degrees:
                    self.cancelled.setdefault(p, f'a factor 0 ({self._place(node)})')
                return CONSTANT
            return Value(self._pure(inputs[:1]), inputs[0].spread)
        return self._product(node, inputs, range(len(inputs)))

    def _rule_pow(self, node, inputs: list[Value]) -> Value:
        exponent = saved_attribute(node, 'exponent')
        if not isinstance(exponent, (int, float)) or len(inputs) > 1:
            return self._mixed(inputs, f'{self._place(node)} is not homogeneous')
        spread = inputs[0].spread or exponent % 2 == 0
        return Value(self._pure(inputs, float(exponent)), spread)

    def _rule_sqrt(self, node, inputs: list[Value]) -> Value:
        return Value(self._pure(inputs, 0.5), inputs[0].spread)

    def _rule_rsqrt(self, node, inputs: list[Value]) -> Value:
        return Value(self._pure(inputs, -0.5), inputs[0].spread)

    def _rule_reciprocal(self, node, inputs: list[Value]) -> Value:
        return Value(self._pure(inputs, -1.0), inputs[0].spread)

    def _rule_square(self, node, inputs: list[Value]) -> Value:
        return Value(self._pure(inputs, 2.0), spread=True)

    def _rule_var(self, node, inputs: list[Value]) -> Value:
        return Value(self._pure(inputs, 2.0), spread=True)

    def _rule_clampmin(self, node, inputs: list[Value]) -> Value:
        return self._clamp(node, inputs, saved_attribute(node, 'min'), None)

    def _rule_clamp(self, node, inputs: list[Value]) -> Value:
        bounds = saved_attribute(node, 'min'), saved_attribute(node, 'max')
        return self._clamp(node, inputs, *bounds)

    def _clamp(self, node, inputs: list[Value], low, high) -> Value:
        # min=0 is a ReLU; any lower bound of a spread statistic is its ε.
        if high is None and (inputs[0].spread or low == 0):
            return Value(self._pure(inputs[:1]), inputs[0].spread)
        return self._mixed(inputs, f'{self._place(node)} is not homogeneous')

    def _rule_varmean(self, node, inputs: list[Value]) -> Value:
        return Value(self._pure(inputs, 2.0), spread=True)

    def _rule_weightnorminterface(self, node, inputs: list[Value]) -> Value:
        # g · v / ‖v‖: of degree 0 in v, 1 in g.
        self._pure(inputs[:1])
        return Value(self._pure(inputs[1:]))


def _cut(value: Value) -> Value:
    """The value without the order of its channels' degrees."""
    return Value(
        {
            p: dataclasses.replace(d, layout=None) if isinstance(d, PerChannel) else d
            for p, d in value.degrees.items()
        },
        value.spread,
    )


def _joined_shapes(node) -> list[tuple[int, ...] | None]:
    """Shapes of what is joined by channels; a single constant's is what is left."""
    shapes = [
        None if child is None else output_shape(child, output)
        for child, output in node.next_functions
    ]
    whole = output_shape(node)
    if shapes.count(None) == 1 and whole is not None and len(whole) > 1:
        rest = whole[1] - sum(shape[1] for shape in shapes if shape is not None)
        shapes[shapes.index(None)] = (whole[0], rest, *whole[2:])
    return shapes
