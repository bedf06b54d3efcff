"""What has to be scaled along with a weight, as a walk through the graph finds it.

In training mode batch norm removes the scale of the weight before it, whatever it is.
In evaluation mode it subtracts and divides by stored statistics, which belong to one
scale: with a weight w → cw the mean has to become c times as large and the variance c²
times. A bias b between weight and norm has to keep its proportion to what it is added
to, since the norm sees cwx + b.
"""

from collections.abc import Iterable, Mapping

from .degrees import Layout, Shape, Value, layout_of, occurring

__all__ = ['Followers']


class Followers:
    """Biases and running statistics that follow weights, by the weights' ids."""

    def __init__(self) -> None:
        # By bias: the degrees of what it is added to, at each of its additions.
        self._additions: dict[int, list[Mapping[int, float]]] = {}
        # By parameter: how many operations read it.
        self._readers: dict[int, int] = {}
        # By name of a norm that keeps running statistics: which channels of its input
        # have which degree, in each weight, at each of its calls.
        self.statistics: dict[str, list[dict[int, Layout]]] = {}
        # By weight: why something that has to follow it cannot be scaled.
        self.out_of_reach: dict[int, str] = {}

    def note_readers(self, inputs: Iterable[Value]) -> None:
        """Count an operation that reads its inputs, some of which are parameters."""
        for value in inputs:
            if value.leaf is not None:
                self._readers[value.leaf] = self._readers.get(value.leaf, 0) + 1

    def note_addition(
        self, bias: Value, degrees: Mapping[int, float], place: str
    ) -> None:
        """Note that a bias is added to a value.

        Args:
            bias: What is added, a parameter or not.
            degrees: Degrees of the value that it is added to.
            place: The operation and its module, for messages.
        """
        if bias.leaf is not None:
            self._additions.setdefault(bias.leaf, []).append(degrees)
            return
        for weight, degree in degrees.items():
            if bias.degrees.get(weight) != degree:
                self.refuse(weight, f'what is added to it in {place} is no parameter')

    def note_statistics(
        self, value: Value, shape: Shape | None, norm: str, keeper: str | None
    ) -> None:
        """Note that a norm takes statistics of a value.

        Args:
            value: Input of the norm.
            shape: Shape of the input, None if it is unknown.
            norm: The norm, for messages.
            keeper: Name of the module that keeps running statistics of the input;
                None if no module does.
        """
        layouts: dict[int, Layout] = {}
        for weight, degree in value.degrees.items():
            if not any(occurring(degree)):
                continue
            layout = layout_of(degree, shape)
            if layout is None:
                self.refuse(weight, f'which channels of {norm} it feeds is not clear')
            else:
                layouts[weight] = layout
        if keeper is not None:
            self.statistics.setdefault(keeper, []).append(layouts)

    def refuse(self, weight: int, reason: str) -> None:
        """Note that a weight cannot be scaled, as something cannot follow it."""
        self.out_of_reach.setdefault(weight, reason)

    def biases(self) -> dict[int, list[Mapping[int, float]]]:
        """Tell what each bias is added to.

        Returns:
            By bias, the degrees of what it is added to, at each of its uses. A use
            that is no addition has no degrees.
        """
        found: dict[int, list[Mapping[int, float]]] = {}
        for bias, additions in self._additions.items():
            others = self._readers[bias] - len(additions)
            found[bias] = [*additions, *[{}] * others]
        return found
