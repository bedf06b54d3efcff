"""Measuring by filter: every output channel of a layer on a sphere of its own.

Batch norm makes each output filter scale-invariant by itself. What is kept of a window
are each filter's means; what is handed over are their quantiles over a layer's filters.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .kernels import Columns, filter_gram
from .quantities import QUANTITIES, measure
from .readers import MOMENT, ROW, StepFormula
from .transfers import Download, HostCopy

__all__ = ['COLUMNS', 'QUANTILES', 'FilterMeans', 'FilterRows', 'filter_counts']

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS = tuple(
    f'{quantity}_filter_q{round(100 * q):02d}'
    for quantity in QUANTITIES
    for q in QUANTILES
)


def filter_counts(
    named_shapes: Iterable[tuple[str, Sequence[int]]],
    by_filter: Iterable[str] | None = None,
) -> list[int]:
    """How many filters of each layer are measured.

    Args:
        named_shapes: Name and shape of each layer.
        by_filter: Names of the layers whose filters are measured; None takes all.

    Returns:
        Size of the first dimension of each layer; 0 for those that are not chosen,
        and for those of one dimension, which have no filters.

    Example:
        >>> filter_counts([('conv', (8, 3, 3)), ('bias', (8,))])
        [8, 0]
    """
    chosen = None if by_filter is None else set(by_filter)
    return [
        shape[0] if len(shape) > 1 and (chosen is None or name in chosen) else 0
        for name, shape in named_shapes
    ]


class FilterRows:
    """Reads the filters that a process holds of the layers that it reads.

    Args:
        filters: Number of filters of each measured layer; 0 leaves a layer out.
        layers: Positions of the layers that are read, in order.
        spans: Of each measured layer, which filters this process holds something of:
            the first one, and how many.

    Attributes:
        positions: Positions of its filters among those of all measured layers.

    Example:
        >>> reading = FilterRows([2, 3], layers=[1], spans=[(0, 2), (1, 2)])
        >>> reading.positions
        [3, 4]
        >>> u, rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 7).double()
        >>> reading.read(([u], [u], [u]), [None], rows)
        >>> rows[:, 0].tolist()
        [25.0, 1.0]
    """

    def __init__(
        self,
        filters: Sequence[int],
        layers: Sequence[int],
        spans: Sequence[tuple[int, int]],
    ) -> None:
        begins = np.cumsum([0, *filters]).tolist()
        self.positions: list[int] = []
        # Which of the layers that are read have filters, and how many are held.
        self._chosen: list[tuple[int, int]] = []
        for number, layer in enumerate(layers):
            if filters[layer]:
                first, held = spans[layer]
                begin = begins[layer] + first
                self.positions += range(begin, begin + held)
                self._chosen.append((number, held))

    def read(
        self, columns: Columns, moments: Sequence[Tensor | None], rows: Tensor
    ) -> None:
        """Write a row for each filter.

        Args:
            columns: The three tensors that the reader gives, each of all layers that
                are read.
            moments: The optimizer's first moment of every such layer, or None; empty
                where it is not needed.
            rows: Shape (filters held, 7), float64, overwritten but for the squared
                norm of a moment that there is not.
        """
        if not self._chosen:
            return
        layers = list(zip(*columns, strict=True))
        filter_gram([layers[i] for i, _ in self._chosen], rows[:, :MOMENT])
        begin = 0
        for i, held in self._chosen:
            end = begin + held
            moment = moments[i] if moments else None
            if moment is not None:
                flat = moment.reshape(held, -1).float()
                rows[begin:end, MOMENT] = torch.linalg.vecdot(flat, flat)
            begin = end


class FilterMeans:
    """Means over a window of every filter's quantities, kept on the device.

    The last step waits: it may turn out to be the first of the next window.

    Args:
        filters: Number of filters of each measured layer; 0 leaves a layer out.
        device: Device of the weights.

    Attributes:
        rows: Rows of the step that waits, which :class:`FilterRows` writes; shape
            (filters of all layers, 7), float64.

    Example:
        >>> from smd_mmdet.monitor.readers import SGDReader
        >>> means = FilterMeans([2], torch.device('cpu'))
        >>> u, g = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.zeros(2, 2)
        >>> reading = FilterRows([2], layers=[0], spans=[(0, 2)])
        >>> reading.read(([u], [g], [g]), [None], means.rows)
        >>> means.take(torch.zeros(1, 3).double(), torch.tensor([True]))
        >>> means.merge(SGDReader.step)
        >>> columns = means.columns([means.close()])
        >>> float(columns['weight_norm_filter_q50'][0])
        4.0
    """

    def __init__(self, filters: Sequence[int], device: torch.device) -> None:
        self.filters = list(filters)
        self._of_layer = torch.repeat_interleave(
            torch.arange(len(self.filters)), torch.tensor(self.filters)
        ).to(device)
        total, double = sum(self.filters), torch.float64
        self.rows = torch.full((total, ROW), torch.nan, dtype=double, device=device)
        self._settings = torch.zeros(total, 3, dtype=double, device=device)
        self._valid = torch.zeros(total, dtype=torch.bool, device=device)
        self._waiting = False
        self._sum = torch.zeros(len(QUANTITIES), total, dtype=double, device=device)
        self._count = torch.zeros(total, dtype=double, device=device)
        self._download = Download(self._sum.shape, device)

    def take(self, settings: Tensor, valid: Tensor | None) -> None:
        """Note how the step was made whose rows are written, or on their way.

        Args:
            settings: Learning rate, weight decay and momentum; shape (layers, 3).
            valid: Whether the step of a layer counts; shape (layers,). None if all do.
        """
        self._settings = settings[self._of_layer]
        if valid is None:
            self._valid.fill_(True)
        else:
            self._valid = valid[self._of_layer]
        self._waiting = True

    def merge(self, step: StepFormula) -> None:
        """Count the step that waits, if any, as one of the window under way."""
        if not self._waiting:
            return
        values = measure(step(self.rows, *self._settings.unbind(-1)))
        self._sum += torch.where(self._valid, values, 0.0)
        self._count += self._valid
        self._waiting = False

    def close(self) -> HostCopy:
        """Start to copy the window's means to the host, and forget them.

        Returns:
            The means, shape (quantities, filters); NaN where nothing was counted.
        """
        means = self._download.send(self._sum / self._count)
        self._sum.zero_()
        self._count.zero_()
        return means

    def columns(self, means: Sequence[HostCopy]) -> dict[str, np.ndarray]:
        """Quantiles over each layer's filters, one row per window and layer.

        Args:
            means: What :meth:`close` returned of each window.

        Returns:
            Name of each of :data:`COLUMNS` to its values.
        """
        layers = len(self.filters)
        shape = (len(QUANTITIES), len(QUANTILES), len(means), layers)
        values = np.full(shape, np.nan)
        ends = np.cumsum(self.filters)
        for w, window in enumerate(means):
            of_window = window.numpy()
            for layer, end in enumerate(ends):
                part = of_window[:, end - self.filters[layer] : end]
                if part.size:
                    values[:, :, w, layer] = np.quantile(part, QUANTILES, axis=1).T
        return dict(zip(COLUMNS, values.reshape(len(COLUMNS), -1), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs."""
        return {**self._tensors(), 'waiting': torch.tensor(self._waiting)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`tensors`."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])
        self._waiting = bool(state['waiting'])

    def _tensors(self) -> dict[str, Tensor]:
        return {
            'rows': self.rows,
            'settings': self._settings,
            'valid': self._valid,
            'sum': self._sum,
            'count': self._count,
        }
