"""Measuring shared out among the processes of a run.

Each rank reads its share into a table of zeros, and the sum of these tables over the
ranks is what one rank alone would have read of the whole weights. In data-parallel
training every rank holds the same, and the pass over it is what measuring costs; so a
share is some of the layers, and the sum is the same to the bit: the others add 0. Where
weights are sharded a share are parts of the layers, whose inner products add up.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from .transfers import Download, HostCopy

__all__ = ['PER_LAYER', 'Share', 'share_out']

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
    """A rank's share of a table's rows, and its part in bringing a step's together.

    An exchange is begun in a step and received in a later one, so that no rank waits
    for another. A rank that could not measure sends a failure in place of its rows:
    were it to send nothing, the others would wait for it.

    Args:
        group: The ranks that take part.
        own: Positions of the rows that this rank adds to, in order.
        count: Number of rows: of layers, or of filters.
        columns: Number of values in a row.
        steps: How many exchanges can be under way at a time.
        device: Device of the weights.

    Attributes:
        rank: Number of this rank in the group.
        rows: Where it writes what it reads; shape (its rows, columns), float64.
        failures: Number of failed readings received so far, on the device.

    Example:
        In a group of one process, which has all rows:

        >>> dist.init_process_group(
        ...     'gloo', store=dist.HashStore(), rank=0, world_size=1
        ... )
        >>> cpu = torch.device('cpu')
        >>> share = Share(dist.group.WORLD, [0, 1], 2, columns=7, steps=4, device=cpu)
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
        own: Sequence[int],
        count: int,
        columns: int,
        steps: int,
        device: torch.device,
    ) -> None:
        self.rank = dist.get_rank(group)
        kind: Any = {'dtype': torch.float64, 'device': device}
        self.rows = torch.full((len(own), columns), torch.nan, **kind)
        self.failures = torch.zeros((), **kind)
        self._failures_download = Download((), device)
        self._group = group
        self._index = torch.tensor(own, dtype=torch.int64, device=device)
        self._slots = torch.zeros(steps, count + 1, columns, **kind)
        self._under_way: deque[tuple[dist.Work, Tensor]] = deque()
        self._sent = 0

    def send(self, failed: bool) -> None:
        """Begin the exchange of ``rows``, or of a failure in their place.

        Args:
            failed: Whether this rank could not read its share in this step.
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
                count, columns).
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
