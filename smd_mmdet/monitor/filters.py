"""Measuring by filter: every output channel of a layer on a sphere of its own.

Batch norm makes each output filter scale-invariant by itself. What is kept of a window
are each filter's means; what is handed over are their quantiles over a layer's filters.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .kernels import filter_gram
from .quantities import QUANTITIES, Step, measure
from .readers import MOMENT, ROW
from .transfers import Download, HostCopy

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS = tuple(
    f'{quantity}_filter_q{round(100 * q):02d}'
    for quantity in QUANTITIES
    for q in QUANTILES
)


# A reader's ``step``.
StepFormula = Callable[[Tensor, Tensor, Tensor, Tensor], Step]


class FilterMeans:
    """Means over a window of every filter's quantities, kept on the device.

    The last step waits: it may turn out to be the first of the next window.

    Args:
        filters: Number of filters of each measured layer; 0 leaves a layer out.
        device: Where the weights are.
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
        valid: Tensor,
        step: StepFormula,
    ) -> None:
        """Take in a step.

        Args:
            layers: (u, g, v) of every layer.
            moments: The optimizer's first moment of every layer, or None.
            settings: Shape (layers, 3): lr, weight decay, momentum.
            valid: Shape (layers,): whether the step counts.
            step: The reader's ``step``.
        """
        self.merge(step)
        chosen = [i for i, filters in enumerate(self.filters) if filters]
        filter_gram([layers[i] for i in chosen], self._rows[:, :MOMENT])
        begin = 0
        for i in chosen:
            end = begin + self.filters[i]
            moment = moments[i]
            if moment is not None:
                flat = moment.reshape(self.filters[i], -1).float()
                self._rows[begin:end, MOMENT] = torch.linalg.vecdot(flat, flat)
            begin = end
        self._settings = settings[self._of_layer]
        self._valid = valid[self._of_layer]
        self._waiting = True

    def merge(self, step: StepFormula) -> None:
        """Count the step that waits as one of the window under way."""
        if not self._waiting:
            return
        values = measure(step(self._rows, *self._settings.unbind(-1)))
        self._sum += torch.where(self._valid, values, 0.0)
        self._count += self._valid
        self._waiting = False

    def close(self) -> HostCopy:
        """The window's means, NaN where nothing was counted; forgets them."""
        means = self._download.send(self._sum / self._count)
        self._sum.zero_()
        self._count.zero_()
        return means

    def columns(self, means: Sequence[HostCopy]) -> dict[str, np.ndarray]:
        """Quantiles over each layer's filters, one row per window and layer."""
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
        names = ('_rows', '_settings', '_valid', '_sum', '_count')
        state = {name.strip('_'): getattr(self, name) for name in names}
        return {**state, 'waiting': torch.tensor(self._waiting)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`tensors`."""
        for name in ('_rows', '_settings', '_valid', '_sum', '_count'):
            getattr(self, name).copy_(state[name.strip('_')])
        self._waiting = bool(state['waiting'])
