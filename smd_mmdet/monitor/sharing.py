"""Measuring shared out among the processes of data-parallel training.

There every rank holds the same weights, gradients and optimizer state, and the pass
over them is what measuring costs. So each rank reads its share of the layers into a
tensor of zeros, and the sum of these over the ranks is what one rank alone would have
read, to the bit: the others add 0.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from .transfers import Download, HostCopy

__all__ = ['PER_LAYER', 'Share', 'sharded', 'share_out']

# To read a layer costs something whatever its size: as much as so many elements.
PER_LAYER = 65536


def share_out(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Give every rank about as much to read; every rank finds the same shares.

    The largest layer that is left goes to the rank that has least to read so far.

    Args:
        sizes: Number of elements of each layer.
        ranks: Number of ranks.

    Returns:
        The positions of each rank's layers, in order.

    Example:
        >>> share_out([100, 900_000, 200, 800_000], ranks=2)
        [[1], [0, 2, 3]]
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for layer in sorted(range(len(sizes)), key=lambda layer: -sizes[layer]):
        rank = load.index(min(load))
        shares[rank].append(layer)
        load[rank] += sizes[layer] + PER_LAYER
    return [sorted(share) for share in shares]


class Share:
    """A rank's share of the layers, and its part in bringing a step's rows together.

    An exchange is begun in a step and received in a later one, so that no rank waits
    for another. A rank that could not measure sends a failure in place of its rows:
    were it to send nothing, the others would wait for it.

    Args:
        group: The ranks that take part.
        sizes: Number of elements of each layer.
        columns: Number of values in a row.
        steps: How many exchanges can be under way at a time.
        device: Device of the weights.

    Attributes:
        rank: Number of this rank in the group.
        layers: Positions of the layers that this rank reads.
        rows: Where it writes what it reads; shape (its layers, columns), float64.
        failures: Number of failed readings received so far, on the device.

    Example:
        In a group of one process, which has all layers:

        >>> dist.init_process_group(
        ...     'gloo', store=dist.HashStore(), rank=0, world_size=1
        ... )
        >>> cpu = torch.device('cpu')
        >>> share = Share(dist.group.WORLD, [10, 20], columns=7, steps=4, device=cpu)
        >>> share.rows.fill_(5.0).shape
        torch.Size([2, 7])
        >>> share.send(failed=False)
        >>> rows = torch.zeros(1, 2, 7).double()
        >>> share.receive(rows)
        >>> rows[0, :, 0].tolist(), float(share.count_failures().numpy())
        ([5.0, 5.0], 0.0)
        >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        sizes: Sequence[int],
        columns: int,
        steps: int,
        device: torch.device,
    ) -> None:
        self.rank = dist.get_rank(group)
        self.layers = share_out(sizes, dist.get_world_size(group))[self.rank]
        kind: Any = {'dtype': torch.float64, 'device': device}
        self.rows = torch.full((len(self.layers), columns), torch.nan, **kind)
        self.failures = torch.zeros((), **kind)
        self._failures_download = Download((), device)
        self._group = group
        self._index = torch.tensor(self.layers, dtype=torch.int64, device=device)
        self._slots = torch.zeros(steps, len(sizes) + 1, columns, **kind)
        self._under_way: deque[tuple[dist.Work, Tensor]] = deque()
        self._sent = 0

    def send(self, failed: bool) -> None:
        """Begin the exchange of ``rows``, or of a failure in their place.

        Args:
            failed: Whether this rank could not read its layers in this step.
        """
        if len(self._under_way) == len(self._slots):
            self._next()  # a rank other than the first receives nothing itself
        slot = self._slots[self._sent % len(self._slots)]
        slot.zero_()
        if failed:
            slot[-1].fill_(1)
        else:
            slot.index_copy_(0, self._index, self.rows)
        work = dist.all_reduce(slot, group=self._group, async_op=True)
        self._under_way.append((work, slot))
        self._sent += 1

    def receive(self, rows: Tensor) -> None:
        """Write the rows of the steps whose exchange is under way.

        On a GPU this makes the device's stream wait, not the host.

        Args:
            rows: Rows of steps, of which the last are under way; shape (steps,
                layers, columns).
        """
        for out in rows[len(rows) - len(self._under_way) :]:
            slot = self._next()
            out.copy_(slot[:-1])
            self.failures += slot[-1, 0]

    def count_failures(self) -> HostCopy:
        """Start to copy the number of failures so far to the host."""
        return self._failures_download.send(self.failures)

    def finish(self) -> None:
        """Wait for what is under way, so that the group may end."""
        for work, _ in self._under_way:
            with contextlib.suppress(RuntimeError):  # another process is gone
                work.wait()

    def _next(self) -> Tensor:
        work, slot = self._under_way.popleft()
        work.wait()
        return slot


# Module, class, and what it is called. Nothing can be of a class whose module was
# never imported, so none of them is imported here.
_SHARDING = (
    *(
        (module, 'DTensor', 'fully_shard (DTensor parameters)')
        for module in ('torch.distributed.tensor', 'torch.distributed._tensor')
    ),
    ('torch.distributed.fsdp', 'FullyShardedDataParallel', 'FullyShardedDataParallel'),
    *(
        (module, 'FlatParameter', 'FullyShardedDataParallel')
        for module in (
            'torch.distributed.fsdp._flat_param',
            'torch.distributed.fsdp.flat_param',  # torch 2.1
        )
    ),
    (
        'torch.distributed.optim.zero_redundancy_optimizer',
        'ZeroRedundancyOptimizer',
        'ZeroRedundancyOptimizer',
    ),
    ('deepspeed', 'DeepSpeedEngine', 'DeepSpeed'),
)


def sharded(things: Iterable[object]) -> str | None:
    """What shards parameters, modules or optimizers, if anything does.

    Then a rank has a part of each weight, or of its state, and the inner products of
    that part are not those of the weight.

    Args:
        things: Parameters, modules and optimizers.

    Returns:
        A name of what shards the first that is sharded; None if none is.

    Example:
        >>> sharded([torch.nn.Linear(2, 3)]) is None
        True
    """
    kinds = [
        (getattr(sys.modules[module], name), words)
        for module, name, words in _SHARDING
        if hasattr(sys.modules.get(module), name)
    ]
    for thing in things:
        for kind, words in kinds:
            if isinstance(thing, kind):
                return words
    return None
