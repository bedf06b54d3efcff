"""The weights that are measured, and the settings that each is trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from .readers import groups_of, settings_of
from .shards import Shapes, check_parts, is_flattened

__all__ = ['MeasuredWeights', 'NamedParams']

NamedParams = Mapping[str, nn.Parameter] | Iterable[tuple[str, nn.Parameter]]

# What :func:`.settings_of` reads of a group.
SETTINGS = ('lr', 'weight_decay', 'momentum', 'betas', 'dampening')


class MeasuredWeights:
    """Names, parameters and parameter groups of the measured layers.

    A weight can move to another parameter group while training goes on, and the
    settings of a group can change at every step, so both are looked up at each step;
    tensors are made of them only where something has changed.

    Args:
        optimizer: The optimizer that trains the weights.
        named_params: The weights: a dict or an iterable of (name, parameter).
        process_group: The ranks whose parts add up to the weights, where these or
            their state are sharded.
        shapes: Shape of each whole weight, where its parameter does not tell it.

    Attributes:
        names: Name of each layer.
        params: Parameter of each layer.
        shapes: Shape of each layer where it is whole.
        groups: Index of each layer's parameter group in the optimizer.
        listed: Whether the optimizer still trains each layer; shape (layers,), bool,
            on the host. A layer that has left its group keeps the index 0.
        cut_up: Whether FullyShardedDataParallel has cut weights up anywhere.
        settings: Learning rate, weight decay and momentum of each layer; shape
            (layers, 3), float64, on the host; another tensor where they change.

    Raises:
        ValueError: If there is no weight, if one is not among the optimizer's
            parameters, or if parts of them do not add up.

    Example:
        >>> weight = nn.Parameter(torch.ones(2, 3))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.25)
        >>> weights = MeasuredWeights(optimizer, {'conv': weight})
        >>> weights.read_settings(optimizer)
        ((0.5, 0.0, 0.25),)
        >>> weights.settings
        tensor([[0.5000, 0.0000, 0.2500]], dtype=torch.float64)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        named_params: NamedParams,
        process_group: dist.ProcessGroup | None = None,
        shapes: Shapes | None = None,
    ) -> None:
        named_params = dict(named_params)
        if not named_params:
            raise ValueError('named_params is empty: there is nothing to measure')
        self.names = tuple(named_params)
        self.params = tuple(named_params.values())
        self._process_group, self._given = process_group, shapes or {}
        self.shapes = [
            tuple(self._given.get(name, param.shape))
            for name, param in named_params.items()
        ]
        # Of a weight that FullyShardedDataParallel has cut up, a rank may hold nothing.
        self.cut_up = any(map(is_flattened, self.params))
        self.groups: list[int] = []
        self.listed = torch.ones(len(self.names), dtype=torch.bool)
        self.settings = torch.zeros(len(self.names), 3, dtype=torch.float64)
        # What these were made from: who is in which group, what the groups that have a
        # measured layer say, and who has no gradient.
        self._layout: list[tuple[int, int]] | None = None
        self._said: list[list[Any]] | None = None
        self._lacking: list[bool] = []
        self._in_tensors = False
        self._settings_of_groups: tuple[tuple[float, float, float], ...] = ()
        self._takes_part: Tensor | None = None
        self.follow(optimizer)

    def __len__(self) -> int:
        return len(self.names)

    def follow(self, optimizer: Optimizer) -> None:
        """Take the groups from another optimizer.

        Args:
            optimizer: An optimizer of all the weights.

        Raises:
            ValueError: If a weight is not among its parameters, or parts of them do
                not add up; nothing has changed then.
        """
        named_params = dict(zip(self.names, self.params, strict=True))
        check_parts(optimizer, named_params, self._process_group, self._given)
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
        said = [[*map(groups[index].get, SETTINGS)] for index in self._used_groups]
        if self._in_tensors or said != self._said:
            self._said = said
            self._in_tensors = any(map(_has_tensor, said))
            settings = [settings_of(groups[index]) for index in self._used_groups]
            self._settings_of_groups = tuple(settings)
            of_layers = np.array(settings)[self._positions]
            self.settings = torch.from_numpy(of_layers)
        return self._settings_of_groups

    def gradients(self) -> tuple[list[Tensor], Tensor | None]:
        """The gradients of a step, and which layers take part in it.

        Returns:
            Gradient of each layer, its weight where it has none; and whether it takes
            part, shape (layers,), bool, on the host. None if all do.
        """
        grads: list[Any] = [param.grad for param in self.params]
        lacking = [grad is None for grad in grads]
        if self.cut_up:  # where others have all of a weight, they tell of its gradient
            pairs = zip(lacking, self.params, strict=True)
            lacking = [none and param.numel() > 0 for none, param in pairs]
        if lacking != self._lacking:
            self._lacking = lacking
            takes_part = ~torch.tensor(lacking) & self.listed
            self._takes_part = None if takes_part.all() else takes_part
        if self._takes_part is not None:
            pairs = zip(grads, self.params, strict=True)
            grads = [param if grad is None else grad for grad, param in pairs]
        return grads, self._takes_part

    def _set_groups(self, found: list[int | None]) -> None:
        self.listed = torch.tensor([group is not None for group in found])
        self.groups = [group or 0 for group in found]
        used, positions = np.unique(self.groups, return_inverse=True)
        self._used_groups, self._positions = used.tolist(), positions
        self._said, self._lacking = None, []


def _has_tensor(said: Iterable[Any]) -> bool:
    """Whether a setting is a tensor, which may change and stay the same object."""
    return any(
        _has_tensor(value) if isinstance(value, tuple) else isinstance(value, Tensor)
        for value in said
    )
