"""Measures the motion of weights at every step of a torch optimizer."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from smd_mmdet._arguments import one_of, whole_number
from smd_mmdet.stages import Change, StageTracker

from .clipping import UNCLIPPED, UNKNOWN, Clipped, note
from .filters import FilterMeans, FilterRows, filter_counts
from .hooks import keep_step_hooks
from .kernels import Columns
from .moments import WindowMoments
from .readers import ROW, Reader, reader_for
from .rows import columns_of
from .shards import (
    Shapes,
    check_whole,
    filter_span,
    layers_read,
    local_of,
    stepping,
)
from .sharing import Share
from .state import fits, load_window, save_window
from .transfers import to_device
from .weights import MeasuredWeights, NamedParams
from .windows import Block, ClosedWindow, Window

__all__ = ['SphericalMotionMonitor']

# Steps whose rows wait on the device to be reduced at once.
BLOCK = 32


class SphericalMotionMonitor:
    """Measures weight norm, unit gradient and angular update of every step.

    It attaches itself to the optimizer's step hooks: there gradients are already
    accumulated, unscaled and clipped, and a step that AMP skips is not seen. For
    SGD six inner products per layer after the step tell everything; for any other
    optimizer the weights are copied before the step.

    It changes no weight and does not wait for the device. It cannot stop training:
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
            quantiles of the filters' window means, :data:`.filters.COLUMNS`.
        by_filter: With ``granularity='filter'``, the names of the weights whose
            filters are measured, those that batch norm follows; None takes all.
            The quantiles of the others are NaN.
        process_group: The ranks that measure together. Where they hold the same
            weights, gradients and optimizer state, as in data-parallel training, the
            layers are shared out among them, and the windows are to the bit those
            that one rank would have measured alone. Where weights or state are
            sharded (``fully_shard``, ``ZeroRedundancyOptimizer``), each rank reads
            the parts that it holds, and they add up. Every rank makes a monitor of
            the same weights, and detaches it after the same step. Rank 0 of the group
            has the windows; the others collect nothing. None shares nothing.
        shapes: Shape by name of each weight that ``FullyShardedDataParallel`` has
            flattened (with ``use_orig_params=True``), as it was before.

    Attributes:
        optimizer: The optimizer whose steps are measured.
        names: Name of each layer.
        window: Steps per window.
        iteration: Number of the last step that was seen.
        warmup: Iterations of the warm-up where the schedule is known ahead; else a
            warm-up is seen where the rate rises at every iteration.
        unclipped: Whether gradients are known not to be clipped in steps of which
            :meth:`note_clipping` is told nothing. Else that is not known.
        fault: What made the monitor stop, or None.

    Raises:
        ValueError: On an empty or unknown set of parameters, a bad setting, or
            parts of weights that do not add up among the ranks.

    Example:
        A weight of norm 1 whose gradient, of norm 1 too, is orthogonal to it turns
        by arctan(lr) in the first step:

        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> with SphericalMotionMonitor(optimizer, {'conv': weight}) as monitor:
        ...     weight.grad = torch.tensor([0.0, 1.0])
        ...     optimizer.step()
        ...     rows = monitor.collect()
        >>> rows['layer'][0], int(rows['iter'][0]), int(rows['count'][0])
        ('conv', 1, 1)
        >>> f"{rows['weight_norm_mean'][0]:.4f}"
        '1.0000'
        >>> f"{rows['angular_update_mean'][0]:.4f}"
        '0.0997'
    """

    def __init__(
        self,
        optimizer: Optimizer,
        named_params: NamedParams,
        window: int = 1,
        granularity: str = 'layer',
        by_filter: Iterable[str] | None = None,
        process_group: dist.ProcessGroup | None = None,
        shapes: Shapes | None = None,
    ) -> None:
        self.window = whole_number(window, 'window')
        one_of(granularity, 'granularity', ('layer', 'filter'))
        self._weights = MeasuredWeights(optimizer, named_params, process_group, shapes)
        self.optimizer = optimizer
        self.names = self._weights.names
        self.iteration = 0
        # Iterations of the warm-up, where the schedule is known.
        self.warmup = 0
        self.unclipped = False
        self.fault: Exception | None = None

        params, layers = self._weights.params, len(self._weights)
        device, steps = params[0].device, min(window, BLOCK)
        # Of the step to come; None if nobody has told.
        self._noted: Clipped | None = None
        # The number of filters of each layer, where these are measured.
        self._filter_counts: list[int] | None = None
        if granularity == 'filter':
            whole = zip(self.names, self._weights.shapes, strict=True)
            self._filter_counts = filter_counts(whole, by_filter)
        self._group = process_group
        self._share_out(optimizer)
        self._reader = self._new_reader()

        self._stages = StageTracker()
        self._window = Window(1, layers, stage=None)
        self._block = Block(steps, layers, ROW, device)
        self._moments = self._new_moments()
        self._filters: FilterMeans | None = None
        if self._filter_counts is not None and self._keeps:
            self._filters = FilterMeans(self._filter_counts, device)
        self._closed: deque[ClosedWindow] = deque()

        self._measuring = True
        self._handles: list[RemovableHandle] = []
        self.attach()

    def __enter__(self) -> SphericalMotionMonitor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.detach()

    @property
    def theory(self) -> str:
        """Whose equilibrium applies: a name in :data:`.THEORIES`, or 'none'."""
        return self._reader.theory

    @property
    def ready(self) -> bool:
        """Whether a closed window can be collected without waiting."""
        return bool(self._closed) and self._closed[0].arrived

    @property
    def window_start(self) -> int:
        """First iteration of the window under way."""
        return self._window.first_iteration

    # ------------------------------------------------------- attaching

    def attach(self) -> None:
        """Measure from the next step on; the constructor does it."""
        self.detach()
        self._measuring = True
        keep_step_hooks(self.optimizer)
        # A compiled step calls them as they are: to trace them would compile anew at
        # every change of a setting. The optimizer has imported the compiler already.
        untraced = torch.compiler.disable
        hook = untraced(self._guard(self._measure))
        self._handles = [self.optimizer.register_step_post_hook(hook)]
        if self._shares:
            hook = untraced(self._sender())
            self._handles.append(self.optimizer.register_step_post_hook(hook))
        if self._reader.before_step is not None:
            hook = untraced(self._guard(self._reader.before_step))
            self._handles.append(self.optimizer.register_step_pre_hook(hook))

    def detach(self) -> None:
        """Stop measuring; what was measured can still be collected."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for share in self._shares:
            share.finish()

    def withdraw(self) -> None:
        """Measure no more on this rank.

        Where ranks share the layers it still takes part in their exchange, so that
        none waits for it.
        """
        self._measuring = False
        if self._share is None:
            self.detach()

    def follow(self, optimizer: Optimizer) -> None:
        """Measure another optimizer from its next step on, in a new window.

        Collect before, if the theory of the optimizers differs. In a process group
        every rank does it after the same step.

        Args:
            optimizer: An optimizer of the same parameters.

        Raises:
            ValueError: If a measured weight is not among its parameters, or parts of
                them do not add up; the monitor is unchanged then.
        """
        self._weights.follow(optimizer)
        measuring = self._measuring
        self.detach()
        self.end_window()
        self.optimizer = optimizer
        self._share_out(optimizer)
        self._reader = self._new_reader()
        self._moments = self._new_moments()
        self.attach()
        self._measuring = measuring

    def start_at(self, iteration: int, stage: int | dict[str, Any] = 0) -> None:
        """Count on from iterations done before the monitor was attached.

        Args:
            iteration: Number of iterations that are done.
            stage: Number of the stage under way, or ``state_dict()['stages']``.
        """
        self.iteration = iteration
        if isinstance(stage, int):
            self._stages = StageTracker(stage)
        else:
            self._stages = StageTracker()
            self._stages.load_state_dict(stage)
        self._begin_window(iteration + 1)

    def note_clipping(
        self,
        total_norm: torch.Tensor | float,
        max_norm: torch.Tensor | float,
        norm_type: float = 2.0,
    ) -> None:
        """Tell by how much the gradients of the step to come have been clipped.

        Where it is told before every step, the records have the share of clipped
        steps, the mean clip coefficient, and how the applied gradient depends on the
        norms. It waits for nothing. If AMP skips the step, what is told of the next
        one takes its place.

        Args:
            total_norm: Norm of all gradients before, which
                ``torch.nn.utils.clip_grad_norm_`` returns: a number, or a tensor of
                one element.
            max_norm: The largest norm that they may have.
            norm_type: Which norm that is.

        Raises:
            ValueError: If ``total_norm`` is not one number.

        Example:
            >>> from torch.nn.utils import clip_grad_norm_
            >>> weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
            >>> optimizer = torch.optim.SGD([weight], lr=0.1)
            >>> with SphericalMotionMonitor(optimizer, {'conv': weight}) as monitor:
            ...     weight.grad = torch.tensor([0.0, 4.0])
            ...     norm = clip_grad_norm_([weight], max_norm=1.0)
            ...     monitor.note_clipping(norm, max_norm=1.0)
            ...     optimizer.step()
            ...     rows = monitor.collect()
            >>> float(rows['clipped_share'][0])
            1.0
            >>> f"{rows['clip_coefficient_mean'][0]:.4f}"
            '0.2500'
        """
        self._noted = note(total_norm, max_norm, norm_type)

    def _take_clipped(self) -> Clipped:
        """What is known of the clipping of the step that was made; told once."""
        noted, self._noted = self._noted, None
        if noted is None:
            noted = UNCLIPPED if self.unclipped else UNKNOWN
        return noted

    @property
    def _keeps(self) -> bool:
        """Whether this process has the windows."""
        return self._share is None or self._share.rank == 0

    @property
    def _shares(self) -> list[Share]:
        """What is exchanged at every step, in order."""
        return [s for s in (self._share, self._filter_share) if s is not None]

    def _share_out(self, optimizer: Optimizer) -> None:
        """Find what this process reads, and what it exchanges with others."""
        weights, group = self._weights, self._group
        layers, counts = len(weights), self._filter_counts
        device = weights.params[0].device
        self._own = list(range(layers))
        self._share: Share | None = None
        self._filter_share: Share | None = None
        if group is not None:
            self._own = layers_read(optimizer, weights.params, group)
            check_whole(weights.params, weights.shapes, self._own, group)
            steps = min(self.window, BLOCK)
            self._share = Share(group, self._own, layers, ROW, steps, device)
        if counts is not None:
            spans = list(map(filter_span, self.names, weights.params))
            self._filter_rows = FilterRows(counts, self._own, spans)
            if group is not None:
                # Those of a step are there when the next one is read.
                own, total = self._filter_rows.positions, sum(counts)
                self._filter_share = Share(group, own, total, ROW, 1, device)

    def _new_reader(self) -> Reader:
        params, groups = self._weights.params, self._weights.groups
        optimizer = stepping(self.optimizer)
        return reader_for(optimizer)(
            optimizer,
            [params[layer] for layer in self._own],
            [groups[layer] for layer in self._own],
        )

    def _new_moments(self) -> WindowMoments:
        device = self._weights.params[0].device
        return WindowMoments(self._reader.quantities, len(self._weights), device)

    def _guard(self, action: Callable[[], None]) -> Callable[..., None]:
        """A hook that measures as long as that goes well."""

        def hook(optimizer: Optimizer, args: object, kwargs: object) -> None:
            if not self._measuring:
                return
            try:
                action()
            except Exception as fault:
                self._give_up(fault)

        return hook

    def _sender(self) -> Callable[..., None]:
        """A hook that takes part in the exchange, whatever came of measuring."""

        def hook(optimizer: Optimizer, args: object, kwargs: object) -> None:
            try:
                for share in self._shares:
                    share.send(failed=not self._measuring)
            except Exception as fault:
                self.detach()
                self._give_up(fault)

        return hook

    def _give_up(self, fault: Exception) -> None:
        self.fault = fault
        self.withdraw()
        where = '' if self._share is None else f' in process {self._share.rank}'
        # Where warnings are errors, this one must not end the step it comes from.
        with contextlib.suppress(RuntimeWarning):
            warnings.warn(
                f'monitoring stopped at iteration {self.iteration}{where}, training '
                f'goes on: {type(fault).__name__}: {fault}',
                RuntimeWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------- at every step

    def _measure(self) -> None:
        """After a step of the optimizer: read what it did."""
        self.iteration += 1
        weights, share, block = self._weights, self._share, self._block
        if weights.find_groups(self.optimizer):
            self._reader.groups = [weights.groups[layer] for layer in self._own]
        grads, takes_part = weights.gradients()
        if self._keeps:
            self._turn_window()
            # A fused optimizer under AMP decides on the device whether it steps.
            found_inf = getattr(self.optimizer, 'found_inf', None)
            if found_inf is not None:
                [found_inf] = local_of([found_inf])
            block.add(
                self.iteration,
                weights.settings,
                takes_part,
                found_inf,
                self._take_clipped(),
            )
            self._window.steps += 1
        last = len(block) - 1
        rows = block.rows[last] if share is None else share.rows
        if share is not None:
            grads = [grads[layer] for layer in self._own]
        columns, moments = self._reader.read(rows, grads)
        if weights.cut_up and takes_part is not None:
            # Rank 0 may have nothing of a layer, and not know that it counts not.
            lacking = to_device(~takes_part[self._own], rows.device)
            rows.masked_fill_(lacking.unsqueeze(1), torch.nan)
        if self._filter_counts is not None:
            self._read_filters(columns, moments, last)

    def _read_filters(
        self, columns: Columns, moments: Sequence[torch.Tensor | None], last: int
    ) -> None:
        """Read the filters of a step, the last one in the block."""
        filters, share = self._filters, self._filter_share
        if filters is not None:
            self._merge_filters()
            [settings] = self._block.sent_settings(last, last + 1)
            valid = self._block.valid(last, last + 1)
            filters.take(settings, None if valid is None else valid[0])
        if share is not None:
            self._filter_rows.read(columns, moments, share.rows)
        elif filters is not None:
            self._filter_rows.read(columns, moments, filters.rows)

    def _merge_filters(self) -> None:
        """Count the filters' last step, which others have had time to send."""
        if self._filters is None:
            return
        self._receive_filters()
        self._filters.merge(self._reader.step)

    def _turn_window(self) -> None:
        """Before a step is added: decide what becomes of those before it."""
        change = self._stages.observe(
            self._weights.read_settings(self.optimizer), self.iteration <= self.warmup
        )
        if change is not Change.NONE:
            self._close_window(self.iteration, change is Change.SETTLED)
        if self._window.steps >= self.window:
            self._close_window(self.iteration)
        elif len(self._block) == self._block.size:
            self._reduce(len(self._block))

    def _reduce(self, steps: int) -> None:
        """Merge the block's first steps into the moments of the window."""
        if not steps:
            return
        self._receive()
        block = self._block
        valid, settings = block.valid(0, steps), block.settings(0, steps)
        formula = self._reader.formula(settings)
        on_device = block.sent_settings(0, steps)
        step = formula(block.rows[:steps], *on_device.unbind(-1))
        self._moments.add(block, steps, step, valid)
        self._window.take(settings, block.iterations[:steps])
        block.drop(steps)

    def _receive(self) -> None:
        """Complete the block with what other ranks have read."""
        if self._share is not None and self._measuring:
            self._share.receive(self._block.rows[: len(self._block)])

    def _receive_filters(self) -> None:
        """Complete the filters of the last step with what other ranks have read."""
        share, filters = self._filter_share, self._filters
        if share is not None and filters is not None and self._measuring:
            share.receive(filters.rows.unsqueeze(0))

    # ------------------------------------------------------- closing a window

    def end_window(self) -> None:
        """Close the window under way though it is not full, at the end of a run."""
        if self._measuring:
            self._close_window(self.iteration + 1)

    def _close_window(self, next_iteration: int, keep_last: bool = False) -> None:
        """Send the window to the host; its last step may open the next one."""
        block, window, stage = self._block, self._window, self._window.stage
        kept = min(int(keep_last), len(block))
        self._reduce(len(block) - kept)
        window.steps -= kept
        if window.steps and stage is not None:  # the first step brings a stage
            # In the order of sending: what is sent last arrives last.
            quantities = self._moments.quantities
            closed = ClosedWindow(window, stage, quantities, *self._moments.send())
            if self._filters is not None:
                if not kept:
                    self._merge_filters()
                closed.filter_means = self._filters.close()
            if self._share is not None:
                closed.failures = self._share.count_failures()
            self._closed.append(closed)
        self._moments.reset()
        self._begin_window(block.iterations[0] if kept else next_iteration)
        self._window.steps = kept

    def _begin_window(self, first_iteration: int) -> None:
        stage = self._stages.stage
        self._window = Window(first_iteration, len(self._weights), stage)

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
            closed = self._closed.popleft()
            if closed.failed:
                self._closed.clear()
                self._give_up(_failure_elsewhere())
            else:
                windows.append(closed)
        return columns_of(windows, self._weights, self._reader, self._filters)

    # ------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The window under way and the stage, in tensors and plain values.

        Closed windows are not part of it: collect them first. In a process group
        rank 0 has it, without the others' help.

        Raises:
            RuntimeError: If measuring has stopped, here or on another rank.
        """
        self._receive()
        self._receive_filters()
        if self._share is not None and self._share.failures.item():
            self._give_up(_failure_elsewhere())
        if not self._measuring:
            raise RuntimeError('measuring has stopped')
        return {
            'names': list(self.names),
            'window': self.window,
            'iteration': self.iteration,
            'stages': self._stages.state_dict(),
            **save_window(self._window, self._block, self._moments, self._filters),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the window under way from :meth:`state_dict`.

        Raises:
            ValueError: If the state is of other layers or another window size, or of
                a version that measured other quantities; the monitor is unchanged then.
        """
        same = tuple(state['names']) == self.names and state['window'] == self.window
        if not same or (state['filters'] is None) != (self._filters is None):
            raise ValueError('the saved window has other layers or another size')
        if not fits(state, self._block, self._moments):
            raise ValueError('the saved window is that of another version')
        self.start_at(state['iteration'], state['stages'])
        load_window(state, self._window, self._block, self._moments, self._filters)


def _failure_elsewhere() -> RuntimeError:
    return RuntimeError('measuring failed in another process, whose warning says why')
