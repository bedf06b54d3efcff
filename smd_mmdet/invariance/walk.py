"""A walk through the graph of a forward pass, from the parameters to the loss.

The walk visits every operation after its inputs and keeps, for each value, the degree
with which it scales in each parameter (:mod:`.degrees`). What an operation does to
degrees says its rule (:mod:`.rules`). A parameter is scale-invariant if its degree
becomes 0 on every path to the loss.

Follow a convolution, a bias, a batch norm, a ReLU and a second convolution by hand.
Multiply ``first``, the kernel of the first convolution, by k:

======================  ============================  ==================================
value                   becomes                       degree in ``first``
======================  ============================  ==================================
a = conv(x, first)      k · a                         1
b = a + bias            k · a + bias                  1 per channel, up to a constant
c = batch_norm(b)       c: the mean takes the bias    0
                        away, the deviation the k
d = relu(c)             d                             0
e = conv(d, second)     e                             0
======================  ============================  ==================================

So the loss does not depend on the scale of ``first``. It depends on that of
``second``, which has degree 1 in e and never meets a norm:

>>> import torch
>>> from torch import nn
>>> from torch.nn import functional as F
>>> first = nn.Parameter(torch.randn(4, 3, 3, 3))
>>> bias = nn.Parameter(torch.randn(1, 4, 1, 1))
>>> second = nn.Parameter(torch.randn(2, 4, 3, 3))
>>> a = F.conv2d(torch.randn(2, 3, 8, 8), first)
>>> b = a + bias
>>> c = F.batch_norm(b, None, None, training=True)
>>> d = c.relu()
>>> e = F.conv2d(d, second)
>>> owners = Owners(nn.ParameterList([first, bias, second]))
>>> walk = Walk([first, bias, second], owners, trained=[first, bias, second])
>>> walk.run([e])
>>> [walk.degree(value, first) for value in (a, b, c, d, e)]
[1.0, PerChannel(degrees=frozenset({1.0}), cause='Add in ...', layout=None), 0.0, 0.0,
 0.0]
>>> [walk.degree(value, second) for value in (a, b, c, d, e)]
[0.0, 0.0, 0.0, 0.0, 1.0]
>>> walk.findings.norms[id(first)]
{Norm(name='NativeBatchNorm in the model itself', is_module=False): None}
>>> walk.findings.cancelled[id(bias)]
'NativeBatchNorm in the model itself'
>>> walk.findings.failed[id(second)]
'the output scales with it (degree 1): no normalization between them'

In evaluation mode the norm subtracts and divides by numbers that are stored, so they
and the bias would have to be scaled together with ``first``. What has to follow a
weight in this way is noted on the same walk (:mod:`.followers`).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from torch import Tensor, nn

from .degrees import CONSTANT, Degree, PerChannel, Value, occurring
from .findings import Findings
from .followers import Followers
from .operations import (
    RESHAPES,
    Node,
    input_shapes,
    is_batch_norm_operation,
    note_shapes,
    operation_of,
)
from .owners import Owners
from .rules import Step, rule_of

__all__ = ['Walk']


class Walk:
    """One walk through a graph, and what is found on it.

    Args:
        parameters: The parameters to follow.
        owners: Tells which module made a node of the graph.
        trained: The parameters that training changes; others are followed too, so
            that what must be scaled with them is known.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        owners: Owners,
        trained: Iterable[nn.Parameter],
    ) -> None:
        self.findings = Findings(trained={id(p) for p in trained})
        self.followers = Followers()
        self._parameters = {id(p) for p in parameters}
        self._owners = owners
        self._values: dict[Node, Value] = {}

    def run(self, outputs: Sequence[Tensor]) -> None:
        """Walk from the parameters to the outputs, which the loss is made of."""
        note_shapes(outputs)
        for output in outputs:
            if output.grad_fn is None:
                if id(output) in self._parameters:
                    self.findings.reached.add(id(output))
                    self.findings.fail(id(output), 'it is an output itself')
                continue
            for node in self._in_order(output.grad_fn):
                self._values[node] = self._value(node)
            for parameter, degree in self._values[output.grad_fn].degrees.items():
                self.findings.fail(parameter, _reason_of_output(degree))

    def degree(self, value: Tensor, parameter: nn.Parameter) -> Degree:
        """Degree of a value that the walk has passed, in a parameter."""
        return self._values[value.grad_fn].degrees.get(id(parameter), 0.0)

    def _in_order(self, root: Node) -> Iterator[Node]:
        """Nodes that have no value yet, every one after its inputs."""
        if root in self._values:
            return
        # Graphs are deeper than Python's own stack.
        stack = [(root, iter(root.next_functions))]
        seen = {root}
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

    def _value(self, node: Node) -> Value:
        operation = operation_of(node)
        if operation == 'AccumulateGrad':
            return self._value_of_leaf(id(node.variable))
        inputs = [
            CONSTANT if child is None else self._input(child, output)
            for child, output in node.next_functions
        ]
        # A parameter in another shape is that parameter still.
        leaf = inputs[0].leaf if inputs and operation in RESHAPES else None
        if leaf is None:
            self.followers.note_readers(inputs)
        step = Step(
            node, operation, inputs, self._owners, self.findings, self.followers
        )
        if is_batch_norm_operation(operation):
            self._note_statistics(step)
        value = CONSTANT
        if any(one.degrees for one in inputs):
            value = rule_of(operation)(step)
            self._note_construction(step, value)
        return value if leaf is None else dataclasses.replace(value, leaf=leaf)

    def _value_of_leaf(self, parameter: int) -> Value:
        if parameter not in self._parameters:
            return CONSTANT
        self.findings.reached.add(parameter)
        return Value({parameter: 1.0}, leaf=parameter)

    def _input(self, child: Node, output: int) -> Value:
        """Value of an input, without the parameters whose case has ended."""
        value = self._values[child]
        if output == 1 and operation_of(child) == 'VarMean':
            # Output 0 is the variance, whose degree is twice that of the mean.
            value = Value({p: cast(float, d) / 2 for p, d in value.degrees.items()})
        failed = self.findings.failed
        if failed.keys().isdisjoint(value.degrees):
            return value
        degrees = {p: d for p, d in value.degrees.items() if p not in failed}
        return dataclasses.replace(value, degrees=degrees)

    def _note_statistics(self, step: Step) -> None:
        """Note which module's running statistics a norm updates, if there are any."""
        if step.saved('training') is False:
            return
        [value, *_] = step.inputs
        shape = input_shapes(step.node)[0]
        keeper = self._owners.statistics(step.node)
        self.followers.note_statistics(value, shape, step.norm.name, keeper)
        if keeper is None and step.saved('running_mean') is not None:
            for parameter, degree in value.degrees.items():
                if any(occurring(degree)):
                    reason = f'{step.norm.name} has running statistics of no module'
                    self.followers.refuse(parameter, reason)

    def _note_construction(self, step: Step, value: Value) -> None:
        """Note the parameters whose scale arithmetic has removed, without a norm."""
        for one in step.inputs:
            for parameter in one.degrees:
                if parameter in value.degrees or not self.findings.is_open(parameter):
                    continue
                self.findings.constructed.setdefault(parameter, step.place)
                if self._owners.statistics(step.node) is not None:
                    reason = f'{step.place} may keep statistics of its own'
                    self.followers.refuse(parameter, reason)


def _reason_of_output(degree: Degree) -> str:
    if isinstance(degree, PerChannel):
        return degree.cause
    return (
        f'the output scales with it (degree {degree:g}): no normalization between them'
    )
