"""The weights that are measured, and the settings that each is trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .readers import groups_of, settings_of
from .sharing import sharded

__all__ = ['MeasuredWeights', 'NamedParams']

NamedParams = Mapping[str, nn.Parameter] | Iterable[tuple[str, nn.Parameter]]


class MeasuredWeights:
    """Names, parameters and parameter groups of the measured layers.

    A weight can move to another parameter group while training goes on, and the
    settings of a group can change at every step, so both are looked up at each step.

    Args:
        optimizer: The optimizer that trains the weights.
        named_params: The weights: a dict or an iterable of (name, parameter).

    Attributes:
        names: Name of each layer.
        params: Parameter of each layer.
        groups: Index of each layer's parameter group in the optimizer.
        listed: Whether the optimizer still trains each layer; shape (layers,), bool,
            on the host. A layer that has left its group keeps the index 0.
        settings: Learning rate, weight decay and momentum of each layer; shape
            (layers, 3), float64, on the host.

    Raises:
        ValueError: If there is no weight, if one is not among the optimizer's
            parameters, or if parameters or optimizer state are sharded.

    Example:
        >>> weight = nn.Parameter(torch.ones(2, 3))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.25)
        >>> weights = MeasuredWeights(optimizer, {'conv': weight})
        >>> weights.read_settings(optimizer)
        ((0.5, 0.0, 0.25),)
        >>> weights.settings
        tensor([[0.5000, 0.0000, 0.2500]], dtype=torch.float64)
    """

    def __init__(self, optimizer: Optimizer, named_params: NamedParams) -> None:
        named_params = dict(named_params)
        if not named_params:
            raise ValueError('named_params is empty: there is nothing to measure')
        self.names = tuple(named_params)
        self.params = tuple(named_params.values())
        self.groups: list[int] = []
        self.listed = torch.ones(len(self.names), dtype=torch.bool)
        self.settings = torch.zeros(len(self.names), 3, dtype=torch.float64)
        # What the two above were made from: who is in which group, and the settings
        # of every group that has a measured layer. None has them made anew.
        self._layout: list[tuple[int, int]] | None = None
        self._settings_of_groups: tuple[tuple[float, float, float], ...] | None = None
        self._used_groups: list[int] = []
        self.follow(optimizer)

    def __len__(self) -> int:
        return len(self.names)

    def follow(self, optimizer: Optimizer) -> None:
        """Take the groups from another optimizer.

        Args:
            optimizer: An optimizer of all the weights.

        Raises:
            ValueError: If a weight is not among its parameters, or they are sharded;
                nothing has changed then.
        """
        if shard := sharded([optimizer, *self.params]):
            raise ValueError(
                f'{shard}: each process has a part of the weights or of their state, '
                'and the inner products of a part are not those of the weight'
            )
        found = groups_of(optimizer, self.params)
        pairs = zip(self.names, found, strict=True)
        if unknown := [name for name, group in pairs if group is None]:
            raise ValueError(
                f'named_params: not among the parameters of the optimizer: {unknown}'
            )
        self._set_groups(found)
        self._layout = None

    def find_groups(self, optimizer: Optimizer) -> bool:
        """Look up the groups again if the optimizer's groups have changed.

        Returns:
            Whether they have.
        """
        groups = optimizer.param_groups
        layout = [(id(group), len(group['params'])) for group in groups]
        if layout == self._layout:
            return False
        self._set_groups(groups_of(optimizer, self.params))
        self._layout = layout
        return True

    def read_settings(self, optimizer: Optimizer) -> tuple[tuple[float, ...], ...]:
        """Read the settings that the optimizer has now, for all layers.

        Returns:
            (learning rate, weight decay, momentum) of every parameter group that has
            a measured layer, in the order of the groups.
        """
        groups = optimizer.param_groups
        settings = tuple([settings_of(groups[index]) for index in self._used_groups])
        if settings != self._settings_of_groups:
            self._settings_of_groups = settings
            of_group = dict(zip(self._used_groups, settings, strict=True))
            self.settings = torch.tensor(
                [of_group[group] for group in self.groups], dtype=torch.float64
            )
        return settings

    def have_grad(self) -> Tensor:
        """Whether each layer takes part in the step; shape (layers,), bool, host."""
        has_grad = [param.grad is not None for param in self.params]
        return torch.tensor(has_grad) & self.listed

    def _set_groups(self, found: list[int | None]) -> None:
        self.listed = torch.tensor([group is not None for group in found])
        self.groups = [group or 0 for group in found]
        self._used_groups = sorted(set(self.groups))
        self._settings_of_groups = None
