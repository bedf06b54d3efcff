"""Measuring by filter: every output channel of a layer on a sphere of its own.

Batch norm makes each output filter scale-invariant by itself. What is kept of a window
are each filter's means; what is handed over are their quantiles over a layer's filters.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .kernels import filter_gram
from .quantities import QUANTITIES, measure
from .readers import MOMENT, ROW, StepFormula
from .transfers import Download, HostCopy

__all__ = ['COLUMNS', 'QUANTILES', 'FilterMeans', 'filter_counts']

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS = tuple(
    f'{quantity}_filter_q{round(100 * q):02d}'
    for quantity in QUANTITIES
    for q in QUANTILES
)


def filter_counts(
    named_params: Iterable[tuple[str, nn.Parameter]],
    by_filter: Iterable[str] | None = None,
) -> list[int]:
    """How many filters of each layer are measured.

    Args:
        named_params: Name and parameter of each layer.
        by_filter: Names of the layers whose filters are measured; None takes all.

    Returns:
        Size of the first dimension of each layer; 0 for those that are not chosen,
        and for those of one dimension, which have no filters.

    Example:
        >>> conv, bias = (nn.Parameter(torch.ones(8, *k)) for k in ((3, 3), ()))
        >>> filter_counts([('conv', conv), ('bias', bias)])
        [8, 0]
    """
    chosen = None if by_filter is None else set(by_filter)
    return [
        param.shape[0] if param.ndim > 1 and (chosen is None or name in chosen) else 0
        for name, param in named_params
    ]


class FilterMeans:
    """Means over a window of every filter's quantities, kept on the device.

    The last step waits: it may turn out to be the first of the next window.

    Args:
        filters: Number of filters of each measured layer; 0 leaves a layer out.
        device: Device of the weights.

    Example:
        >>> from smd_mmdet.monitor.readers import SGDReader
        >>> means = FilterMeans([2], torch.device('cpu'))
        >>> u, g = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.zeros(2, 2)
        >>> settings, valid = torch.zeros(1, 3).double(), torch.tensor([True])
        >>> means.read([(u, g, g)], [None], settings, valid, SGDReader.step)
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
        self._rows = torch.full((total, ROW), torch.nan, dtype=double, device=device)
        self._settings = torch.zeros(total, 3, dtype=double, device=device)
        self._valid = torch.zeros(total, dtype=torch.bool, device=device)
        self._waiting = False
        self._sum = torch.zeros(len(QUANTITIES), total, dtype=double, device=device)
        self._count = torch.zeros(total, dtype=double, device=device)
        self._download = Download(self._sum.shape, device)

    def read(
        self,
        layers: Sequence[tuple[Tensor, Tensor, Tensor]],
        moments: Sequence[Tensor | None],
        settings: Tensor,
        valid: Tensor | None,
        step: StepFormula,
    ) -> None:
        """Read a step; the one before it is counted.

        Args:
            layers: The three tensors that the reader gives of every layer.
            moments: The optimizer's first moment of every layer, or None; empty where
                it is not needed.
            settings: Learning rate, weight decay and momentum; shape (layers, 3).
            valid: Whether the step of a layer counts; shape (layers,). None if all do.
            step: The reader's ``step``.
        """
        self.merge(step)
        chosen = [i for i, filters in enumerate(self.filters) if filters]
        filter_gram([layers[i] for i in chosen], self._rows[:, :MOMENT])
        begin = 0
        for i in chosen:
            end = begin + self.filters[i]
            moment = moments[i] if moments else None
            if moment is not None:
                flat = moment.reshape(self.filters[i], -1).float()
                self._rows[begin:end, MOMENT] = torch.linalg.vecdot(flat, flat)
            begin = end
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
        values = measure(step(self._rows, *self._settings.unbind(-1)))
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
            'rows': self._rows,
            'settings': self._settings,
            'valid': self._valid,
            'sum': self._sum,
            'count': self._count,
        }
