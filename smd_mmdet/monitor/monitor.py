"""Measures the motion of weights at every step of a torch optimizer."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.optim import Optimizer

from smd_mmdet.stages import Change, Stage, StageTracker

from . import filters
from .kernels import gram, squared_norms
from .quantities import QUANTITIES, measure
from .readers import MOMENT, ROW, Reader, groups_of, reader_for, settings_of
from .sharing import Share, sharded
from .transfers import Download, HostCopy, Upload
from .windows import Moments

STATISTICS = ('mean', 'var', 'min', 'max')
COLUMNS = (
    *('iter', 'count', 'layer', 'shape', 'lr', 'weight_decay', 'momentum', 'stage'),
    *(f'{quantity}_{name}' for quantity in QUANTITIES for name in STATISTICS),
    *('angular_update_eq', 'weight_norm_eq'),
)

# Steps whose inner products wait on the device to be reduced in one go.
BLOCK = 32

NamedParams = Mapping[str, nn.Parameter] | Iterable[tuple[str, nn.Parameter]]


class _Block:
    """The last few steps, as read: the rows that wait to be reduced."""

    def __init__(self, size: int, layers: int, device: torch.device) -> None:
        self.size = size
        shape = (size, layers, ROW)
        self.rows = torch.full(shape, torch.nan, dtype=torch.float64, device=device)
        self.taken = torch.zeros(size, dtype=torch.bool, device=device)
        self.has_grad = torch.zeros(size, layers, dtype=torch.bool)
        self.settings = torch.zeros(size, layers, 3, dtype=torch.float64)
        self.iterations: list[int] = []
        self._has_grad = Upload(self.has_grad.shape, torch.bool, device)
        self._settings = Upload(self.settings.shape, torch.float64, device)

    def __len__(self) -> int:
        return len(self.iterations)

    def tensors(self) -> dict[str, torch.Tensor]:
        names = ('rows', 'taken', 'has_grad', 'settings')
        return {name: getattr(self, name) for name in names}

    def conditions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """On the device, of all steps: the settings, and whether the step counts."""
        valid = self._has_grad.send(self.has_grad) & self.taken.unsqueeze(1)
        return self._settings.send(self.settings), valid

    def drop(self, count: int) -> None:
        """Forget the first steps; at most one may stay, as the first."""
        del self.iterations[:count]
        if self.iterations:
            for tensor in self.tensors().values():
                tensor[0].copy_(tensor[count])


@dataclass
class _Window:
    """The window under way, or one that is closed."""

    first_iteration: int
    settings_sum: torch.Tensor  # (layers, 3): lr, weight decay, momentum; host
    settings: torch.Tensor  # of the last step
    stage: Stage | None = None
    steps: int = 0
    last_iteration: int = 0
    # Once closed:
    moments: HostCopy | None = None
    filter_means: HostCopy | None = None
    failures: HostCopy | None = None  # of other ranks, up to now


class SphericalMotionMonitor:
    """Measures weight norm, unit gradient and angular update of every step.

    It attaches itself to the optimizer's step hooks: there gradients are already
    accumulated, unscaled and clipped, and a step that AMP skips is not seen. For
    SGD six inner products per layer after the step tell everything; for any other
    optimizer the weights are copied before the step.

    It changes no weight, does not wait for the device, and cannot stop training:
    on a fault of its own it warns, detaches, and keeps the fault in ``fault``.

    Args:
        optimizer: Any torch optimizer.
        named_params: The weights to measure: a dict or an iterable of
            (name, parameter), each one of the optimizer's.
        window: Steps per window, ≥ 1. Every step is measured; a window holds
            count, mean, population variance, minimum and maximum over its steps.
            It ends early where a stage of the learning rate begins.
        granularity: 'layer', or 'filter' to measure also every slice of the first
            dimension (an output channel of a convolution). The rows then have the
            quantiles of the filters' window means, :data:`filters.COLUMNS`.
        by_filter: With ``granularity='filter'``, the names of the weights whose
            filters are measured, those that batch norm follows; None takes all.
            The quantiles of the others are NaN.
        process_group: Of data-parallel training, whose ranks hold the same weights,
            gradients and optimizer state: the layers are shared out among them. Every
            rank makes a monitor of the same weights, and detaches it after the same
            step. Rank 0 of the group has the windows, to the bit those it would have
            measured alone; on the others nothing is collected. None shares nothing.

    Raises:
        ValueError: On an empty or unknown set of parameters, a bad setting, or
            parameters or optimizer state that are sharded.

    Example:
        >>> with SphericalMotionMonitor(optimizer, weights, window=50) as monitor:
        ...     train()
        ...     rows = monitor.collect()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        named_params: NamedParams,
        window: int = 1,
        granularity: str = 'layer',
        by_filter: Iterable[str] | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ValueError(f'window must be an integer >= 1, got {window!r}')
        if granularity not in ('layer', 'filter'):
            raise ValueError(
                f"granularity must be 'layer' or 'filter', got {granularity!r}"
            )
        if granularity == 'filter' and process_group is not None:
            raise ValueError("granularity='filter' is not shared among processes")
        named_params = dict(named_params)
        if not named_params:
            raise ValueError('named_params is empty: there is nothing to measure')
        _refuse_sharded(optimizer, named_params.values())
        self.optimizer = optimizer
        self.window = window
        self.names = tuple(named_params)
        self.iteration = 0
        self.fault: Exception | None = None

        self._params = tuple(named_params.values())
        self._groups = _groups_of(optimizer, named_params)
        device, layers = self._params[0].device, len(self._params)
        self._block = _Block(min(window, BLOCK), layers, device)
        self._share, self._own = None, list(range(layers))
        if process_group is not None:
            sizes = [param.numel() for param in self._params]
            self._share = Share(process_group, sizes, ROW, self._block.size, device)
            self._own = self._share.layers
        self._reader = self._new_reader()
        self._no_moment = torch.full((), torch.nan, device=device)
        self._moments = Moments(len(QUANTITIES), layers, device)
        self._moments_download = Download(self._moments.values.shape, device)
        self._failures_download = Download((), device)
        self._filters = None
        if granularity == 'filter':
            by_filter = set(self.names if by_filter is None else by_filter)
            self._filters = filters.FilterMeans(
                [
                    param.shape[0] if name in by_filter and param.ndim > 1 else 0
                    for name, param in named_params.items()
                ],
                device,
            )
        self._settings: dict | None = None
        self._layout: list | None = None
        self._closed: deque[_Window] = deque()
        self.start_at(0)

        self._handles: list = []
        self.attach()

    def __enter__(self) -> SphericalMotionMonitor:
        return self

    def __exit__(self, *exc_info) -> None:
        self.detach()

    @property
    def theory(self) -> str:
        """Whose equilibrium applies: a name in :data:`.THEORIES`, or 'none'."""
        return self._reader.theory

    @property
    def ready(self) -> bool:
        """Whether a closed window can be collected without waiting."""
        if not self._closed:
            return False
        window = self._closed[0]
        # What was copied last arrives last.
        return (window.failures or window.moments).arrived

    @property
    def window_start(self) -> int:
        """First iteration of the window under way."""
        return self._window.first_iteration

    def attach(self) -> None:
        """Measure from the next step on; the constructor does it."""
        self.detach()
        self._measuring = True
        hook = self._guard(self._measure)
        self._handles = [self.optimizer.register_step_post_hook(hook)]
        if self._share is not None:
            self._handles.append(self.optimizer.register_step_post_hook(self._send))
        if self._reader.before_step is not None:
            hook = self._guard(self._reader.before_step)
            self._handles.append(self.optimizer.register_step_pre_hook(hook))

    def detach(self) -> None:
        """Stop measuring; what was measured can still be collected."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._share is not None:
            self._share.finish()

    def withdraw(self) -> None:
        """Measure no more, on this rank alone; others do not wait for its share."""
        self._measuring = False
        if self._share is None:
            self.detach()

    def follow(self, optimizer: Optimizer) -> None:
        """Measure another optimizer from its next step on, in a new window.

        Collect before, if the theory of the optimizers differs. In a process group
        every rank does it after the same step.

        Args:
            optimizer: Of the same parameters.

        Raises:
            ValueError: If a measured weight is not among its parameters, or they are
                sharded; the monitor is unchanged then.
        """
        _refuse_sharded(optimizer, self._params)
        groups = _groups_of(optimizer, dict(zip(self.names, self._params, strict=True)))
        measuring = self._measuring
        self.detach()
        self.end_window()
        self.optimizer, self._groups, self._layout = optimizer, groups, None
        self._reader = self._new_reader()
        self.attach()
        self._measuring = measuring

    def _new_reader(self) -> Reader:
        return reader_for(self.optimizer)(
            self.optimizer,
            [self._params[layer] for layer in self._own],
            [self._groups[layer] for layer in self._own],
        )

    def start_at(self, iteration: int, stage: int | dict = 0) -> None:
        """Count on from iterations done before the monitor was attached.

        Args:
            iteration: How many.
            stage: Number of the stage under way, or ``state_dict()['stages']``.
        """
        self.iteration = iteration
        if isinstance(stage, int):
            self._stages = StageTracker(stage)
        else:
            self._stages = StageTracker()
            self._stages.load_state_dict(stage)
        self._window = self._new_window(iteration + 1)

    def collect(self, wait: bool = True) -> dict[str, np.ndarray]:
        """Hand over the windows that are complete, and forget them.

        Args:
            wait: Wait for values on their way from the device, and count a full
                window as complete before the next step is seen. (Only that step
                tells whether a stage has begun with the window's last one.)

        Returns:
            dict: Column name to array, one row per window and layer, in the order
            of :data:`COLUMNS`; ``shape`` holds tuples.
        """
        if wait and self._window.steps >= self.window:
            self.end_window()
        windows = []
        while self._closed and (wait or self.ready):
            window = self._closed.popleft()
            if window.failures is not None and window.failures.numpy():
                self._closed.clear()
                self._give_up(_failure_elsewhere())
            else:
                windows.append(window)
        return self._columns(windows)

    def end_window(self) -> None:
        """Close the window under way though it is not full, at the end of a run."""
        if self._measuring:
            self._close_window(self.iteration + 1)

    # ------------------------------------------------------- at every step

    def _guard(self, action: Callable[[], None]) -> Callable:
        def hook(optimizer, args, kwargs) -> None:
            if not self._measuring:
                return
            try:
                action()
            except Exception as fault:
                self._give_up(fault)

        return hook

    def _give_up(self, fault: Exception) -> None:
        self.fault = fault
        self.withdraw()
        where = '' if self._share is None else f' in process {self._share.rank}'
        warnings.warn(
            f'monitoring stopped at iteration {self.iteration}{where}, training goes '
            f'on: {type(fault).__name__}: {fault}',
            RuntimeWarning,
            stacklevel=3,
        )

    def _send(self, optimizer, args, kwargs) -> None:
        """Take part in the exchange, whatever came of measuring."""
        try:
            self._share.send(failed=not self._measuring)
        except Exception as fault:
            self.detach()
            self._give_up(fault)

    def _measure(self) -> None:
        self.iteration += 1
        self._find_groups()
        if self._share is None or self._share.rank == 0:
            self._add_step()
        if self._share is None:
            self._read(self._block.rows[len(self._block) - 1])
        else:
            self._read(self._share.rows)

    def _add_step(self) -> None:
        """What is known of a step without reading the weights."""
        self._turn_window()
        block, row = self._block, len(self._block)
        block.iterations.append(self.iteration)
        block.settings[row] = self._layer_settings
        has_grad = torch.tensor([p.grad is not None for p in self._params])
        block.has_grad[row] = has_grad & self._listed
        # A fused optimizer under AMP decides on the device whether it steps.
        found_inf = getattr(self.optimizer, 'found_inf', None)
        if found_inf is None:
            block.taken[row].fill_(True)
        else:
            block.taken[row].copy_(found_inf.reshape(()) == 0)
        self._window.steps += 1

    def _read(self, rows: torch.Tensor) -> None:
        """The pass over the weights: a row for each layer that this rank reads."""
        layers, moments = list(self._reader.tensors()), list(self._reader.moments())
        gram(layers, rows[:, :MOMENT])
        if any(moment is not None for moment in moments):
            present = [self._no_moment if m is None else m for m in moments]
            squared_norms(present, rows[:, MOMENT])
        if self._filters is not None:
            row = len(self._block) - 1
            settings, valid = (values[row] for values in self._block.conditions())
            self._filters.read(layers, moments, settings, valid, self._reader.step)

    def _turn_window(self) -> None:
        """Before a step is added: decide what becomes of those before it."""
        groups = self.optimizer.param_groups
        settings = {
            index: settings_of(groups[index]) for index in sorted(set(self._groups))
        }
        change = self._stages.observe(tuple(settings.values()))
        if change is not Change.NONE:
            self._close_window(self.iteration, change is Change.SETTLED)
        if self._window.steps >= self.window:
            self._close_window(self.iteration)
        elif len(self._block) == self._block.size:
            self._reduce(len(self._block))
        if settings != self._settings:
            self._settings = settings
            self._layer_settings = torch.tensor(
                [settings[group] for group in self._groups], dtype=torch.float64
            )

    def _find_groups(self) -> None:
        """Follow the layers to their groups; one that has left makes no step."""
        groups = self.optimizer.param_groups
        layout = [(id(group), len(group['params'])) for group in groups]
        if layout == self._layout:
            return
        self._layout = layout
        found = groups_of(self.optimizer, self._params)
        self._listed = torch.tensor([group is not None for group in found])
        self._groups = [group or 0 for group in found]
        self._reader.groups = [self._groups[layer] for layer in self._own]
        self._settings = None

    def _reduce(self, steps: int) -> None:
        """Merge the block's first steps into the moments of the window."""
        if not steps:
            return
        self._receive()
        block, window = self._block, self._window
        settings, valid = (values[:steps] for values in block.conditions())
        step = self._reader.step(block.rows[:steps], *settings.unbind(-1))
        self._moments.add(measure(step), valid)
        window.settings_sum += block.settings[:steps].sum(0)
        window.settings = block.settings[steps - 1].clone()
        window.last_iteration = block.iterations[steps - 1]
        block.drop(steps)

    def _receive(self) -> None:
        """Complete the block with what other ranks have read."""
        if self._share is not None and self._measuring:
            self._share.receive(self._block.rows[: len(self._block)])

    def _close_window(self, next_iteration: int, keep_last: bool = False) -> None:
        """Send the window to the host; its last step may open the next one."""
        kept = min(int(keep_last), len(self._block))
        self._reduce(len(self._block) - kept)
        window = self._window
        window.steps -= kept
        if window.steps:
            window.moments = self._moments_download.send(self._moments.summary())
            if self._filters is not None:
                window.filter_means = self._close_filters(bool(kept))
            if self._share is not None:
                window.failures = self._failures_download.send(self._share.failures)
            self._closed.append(window)
        self._moments.reset()
        first = self._block.iterations[0] if kept else next_iteration
        self._window = self._new_window(first)
        self._window.steps = kept

    def _close_filters(self, keep_last: bool) -> HostCopy:
        if not keep_last:
            self._filters.merge(self._reader.step)
        return self._filters.close()

    def _new_window(self, first_iteration: int) -> _Window:
        layers = len(self._params)
        zeros = torch.zeros(layers, 3, dtype=torch.float64)
        return _Window(first_iteration, zeros, zeros.clone(), self._stages.stage)

    # ------------------------------------------------------- on the host

    def _columns(self, windows: list[_Window]) -> dict[str, np.ndarray]:
        layers = len(self._params)
        moments = np.array([window.moments.numpy() for window in windows])
        moments = moments.reshape(len(windows), 5, len(QUANTITIES), layers)
        settings = np.array([_mean_settings(window) for window in windows]).reshape(
            len(windows) * layers, 3
        )
        shapes = np.empty(layers, dtype=object)
        shapes[:] = [tuple(param.shape) for param in self._params]

        def per_layer(values, dtype):
            return np.repeat(np.array(values, dtype=dtype), layers)

        columns = {
            'iter': per_layer([w.last_iteration for w in windows], np.int64),
            'count': moments[:, 0, 0].astype(np.int64).ravel(),
            'layer': np.tile(np.array(self.names, dtype=object), len(windows)),
            'shape': np.tile(shapes, len(windows)),
            'lr': settings[:, 0],
            'weight_decay': settings[:, 1],
            'momentum': settings[:, 2],
            'stage': per_layer([w.stage.number for w in windows], np.int64),
        }
        for i, quantity in enumerate(QUANTITIES):
            for j, name in enumerate(STATISTICS, start=1):
                columns[f'{quantity}_{name}'] = moments[:, j, i].ravel()
        lr, decay, momentum = settings.T
        angle, norm = self._reader.equilibrium(
            lr, decay, momentum, columns['unit_h_mean']
        )
        columns.update(angular_update_eq=angle, weight_norm_eq=norm)
        if self._filters is not None:
            columns |= self._filters.columns([w.filter_means for w in windows])
        return columns

    # ------------------------------------------------------- checkpoints

    def state_dict(self) -> dict:
        """The window under way and the stage, in tensors and plain values.

        Closed windows are not part of it: collect them first. In a process group
        rank 0 has it, without the others' help.

        Raises:
            RuntimeError: If measuring has stopped, here or on another rank.
        """
        self._receive()
        if self._share is not None and self._share.failures.item():
            self._give_up(_failure_elsewhere())
        if not self._measuring:
            raise RuntimeError('measuring has stopped')
        window, used = self._window, len(self._block)
        return {
            'names': list(self.names),
            'window': self.window,
            'iteration': self.iteration,
            'stages': self._stages.state_dict(),
            'first_iteration': window.first_iteration,
            'last_iteration': window.last_iteration,
            'steps': window.steps,
            'settings_sum': window.settings_sum.clone(),
            'settings': window.settings.clone(),
            'moments': self._moments.values.cpu(),
            'iterations': list(self._block.iterations),
            'block': {
                name: tensor[:used].cpu().clone()
                for name, tensor in self._block.tensors().items()
            },
            'filters': self._filters
            and {name: t.cpu().clone() for name, t in self._filters.tensors().items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue the window under way from :meth:`state_dict`.

        Raises:
            ValueError: If the state is of other layers or another window size;
                the monitor is unchanged then.
        """
        same = tuple(state['names']) == self.names and state['window'] == self.window
        if not same or (state['filters'] is None) != (self._filters is None):
            raise ValueError('the saved window has other layers or another size')
        self.start_at(state['iteration'], state['stages'])
        window = self._window
        window.first_iteration = state['first_iteration']
        window.last_iteration = state['last_iteration']
        window.steps = state['steps']
        window.settings_sum.copy_(state['settings_sum'])
        window.settings.copy_(state['settings'])
        self._moments.values.copy_(state['moments'])
        self._block.iterations = list(state['iterations'])
        for name, tensor in self._block.tensors().items():
            tensor[: len(self._block)].copy_(state['block'][name])
        if self._filters is not None:
            self._filters.load(state['filters'])


def _failure_elsewhere() -> RuntimeError:
    return RuntimeError('measuring failed in another process, whose warning says why')


def _refuse_sharded(optimizer: Optimizer, params: Iterable[nn.Parameter]) -> None:
    if shard := sharded([optimizer, *params]):
        raise ValueError(
            f'{shard}: each process has a part of the weights or of their state, '
            'and the inner products of a part are not those of the weight'
        )


def _groups_of(
    optimizer: Optimizer, named_params: Mapping[str, nn.Parameter]
) -> list[int]:
    found = groups_of(optimizer, named_params.values())
    unknown = [name for name, i in zip(named_params, found, strict=True) if i is None]
    if unknown:
        raise ValueError(
            f'named_params: not among the parameters of the optimizer: {unknown}'
        )
    return [i for i in found if i is not None]


def _mean_settings(window: _Window) -> np.ndarray:
    if window.stage.steady:  # a mean of equal numbers would differ in the last digit
        return window.settings.numpy()
    return (window.settings_sum / window.steps).numpy()
