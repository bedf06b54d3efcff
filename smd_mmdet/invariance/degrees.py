"""How a value scales with a parameter: degrees of homogeneity.

A value y is homogeneous of degree d in a parameter w if

    y(kw) = k^d · y(w)    for every k > 0.

A value that does not depend on w has degree 0, w itself has degree 1, the product of
two values the sum of their degrees.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    'CONSTANT',
    'Degree',
    'Degrees',
    'Layout',
    'PerChannel',
    'Shape',
    'Value',
    'layout_of',
    'occurring',
    'parameters_of',
]

Shape = Sequence[int]
# Runs of consecutive channels: how many there are, and the degree that they share.
Layout = tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class PerChannel:
    """Degrees of a value that only its single channels have, each up to a constant.

    Channel c of such a value is k^d_c · y_c + b_c, where b_c is one number that does
    not depend on the parameter: a bias, say. The statistics of one channel, which
    batch norm takes, remove the factor and the constant. To every other operation the
    value is not homogeneous.

    Args:
        degrees: The degrees d_c that occur.
        cause: Why the value has no single degree. This is the reason given to the
            user if anything but batch statistics reads the value.
        layout: Which channels have which degree. None if this is not known, or if
            there is only one degree.
    """

    degrees: frozenset[float]
    cause: str
    layout: Layout | None = None


Degree = float | PerChannel
# The degree of one value in each parameter, by the parameter's id; 0 is left out.
Degrees = Mapping[int, Degree]


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of the output of one node.

    Args:
        degrees: Degree of the value in each parameter.
        spread: Whether the value is a statistic that is never negative, as a norm or
            a variance. An ε that is added to it, or bounds it from below, only guards
            a division and is not counted as a term of another degree.
        leaf: Id of the parameter that the value is, in whatever shape; None if the
            value is computed.
    """

    degrees: Degrees
    spread: bool = False
    leaf: int | None = None

    def without_layouts(self) -> 'Value':
        """The same value after a selection of channels, whose layouts are unknown."""
        degrees = {
            p: dataclasses.replace(d, layout=None) if isinstance(d, PerChannel) else d
            for p, d in self.degrees.items()
        }
        return Value(degrees, self.spread)


CONSTANT = Value({})


def occurring(degree: Degree) -> frozenset[float]:
    """All degrees that occur in the channels of a value."""
    return degree.degrees if isinstance(degree, PerChannel) else frozenset({degree})


def layout_of(degree: Degree, shape: Shape | None) -> Layout | None:
    """Tell which channels of a value have which degree.

    Args:
        degree: Degree of the value.
        shape: Shape of the value, channels in dimension 1; None if it is unknown.

    Returns:
        The layout, None if it is unknown.
    """
    if isinstance(degree, PerChannel) and degree.layout is not None:
        return degree.layout
    degrees = occurring(degree)
    if len(degrees) > 1 or shape is None or len(shape) < 2:
        return None
    [single] = degrees
    return ((shape[1], single),)


def parameters_of(values: Iterable[Value]) -> set[int]:
    """Ids of the parameters that at least one of the values depends on."""
    return {p for value in values for p in value.degrees}
