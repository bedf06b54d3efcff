"""The hook that measures the weights of a run and keeps the records."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import distributed as dist
from torch.optim import Optimizer

from smd_mmdet._arguments import one_of, true_or_false, whole_number
from smd_mmdet._text import one_line
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.settings import check_patterns, unknown_setting
from smd_mmdet.invariance import ScaleInvariance
from smd_mmdet.monitor.monitor import SphericalMotionMonitor

from . import lock
from .clipping import clipping_of, follow_clipping
from .faults import survive, survive_or_refuse
from .groups import join_checkpoint, other_decay, split_checkpoint
from .layers import filterwise, layers_to_measure, parameters_of
from .parallel import (
    all_processes,
    computed_in_main,
    measuring_group,
    refuse_parts,
    together,
    wrapped_parts,
)
from .recording import Columns, Recording, begin_recording
from .reporting import check_report, report_now
from .runs import (
    model_of,
    optimizer_of,
    refuse_second,
    scale_invariance_of,
    whole_shapes,
)
from .verify import proved

if TYPE_CHECKING:  # MMEngine's runner imports its hooks, and with them this file
    from mmengine.runner import Runner

__all__ = ['CHECKPOINT_KEY', 'SMDHook']

CHECKPOINT_KEY = 'smd_monitor'


@HOOKS.register_module()
class SMDHook(Hook):
    """Measures every scale-invariant weight at every iteration of a training run.

    Records go to ``WORK_DIR/smd/*.parquet``, window means to the Visualizer as
    ``smd/<quantity>/<layer>``, and one line per logging interval to the log. The
    weights trained are the same to the bit as without the hook. Under DDP each process
    reads its share of the layers, and where training is sharded the parts that it
    holds; the first one keeps the records.

    A fault of the hook's own warns and ends the measuring; training goes on.

    Args:
        window: Optimizer steps per row of the records. Every step is measured,
            whatever the window.
        include: Names or patterns of parameters to measure besides those found to
            be scale-invariant; a name stands for everything below it. Weights that
            are not scale-invariant are measured as a control, without theory; those
            that are frozen, from the iteration on that trains them.
        exclude: Names or patterns of parameters not to measure.
        verify: Whether to prove numerically before training that the measured weights
            are scale-invariant, and to warn with the figures where they are not.
        visualize: Whether to send window means to the Visualizer's backends.
        granularity: 'layer', or 'filter' to measure also each output channel of the
            weights that batch norm follows; its quantiles over a layer's channels go
            to the records.
        report: When to write the report: at the end of training (True), at each
            validation too ('val'), or not at all (False). Its figures go to the
            Visualizer.

    Raises:
        SettingError: On an unknown or bad setting; before the first iteration also
            if nothing is scale-invariant, there are several optimizers or several
            SMDHooks, training is sharded in a way that hides the weights (DeepSpeed),
            or somebody else writes records to the same
            ``work_dir``. An optimizer without theory is measured all the same.

    Example:
        In a config the hook is one entry of ``custom_hooks``, and the import that
        makes it known:

        >>> custom_imports = dict(imports=['smd_mmdet'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SMDHook', window=100)]

        MMEngine's Runner builds it from that:

        >>> from mmengine.registry import HOOKS
        >>> hook = HOOKS.build(custom_hooks[0])
        >>> hook.window, hook.granularity, hook.verify
        (100, 'layer', True)
    """

    priority = 'NORMAL'

    def __init__(
        self,
        window: int = 50,
        include: Sequence[str] | str | None = None,
        exclude: Sequence[str] | str | None = None,
        verify: bool = True,
        visualize: bool = True,
        granularity: str = 'layer',
        report: bool | str = False,
        **unknown: Any,
    ) -> None:
        known = [name for name in inspect.signature(SMDHook).parameters][:-1]
        for key in unknown:
            raise SettingError(unknown_setting('SMDHook', key, known))
        self.window = whole_number(window, 'SMDHook: window', error=SettingError)
        self.verify = true_or_false(verify, 'SMDHook: verify', SettingError)
        self.visualize = true_or_false(visualize, 'SMDHook: visualize', SettingError)
        self.granularity = one_of(
            granularity, 'SMDHook: granularity', ('layer', 'filter'), SettingError
        )
        self.report = check_report(report)
        self.include = check_patterns('SMDHook: include', include)
        self.exclude = check_patterns('SMDHook: exclude', exclude)
        # The window that was under way in the run that is resumed.
        self._saved: dict | None = None
        # The processes that measure together; None where one measures by itself.
        self._group: dist.ProcessGroup | None = None
        # What reads this process's share of the weights at every step. It is None
        # before training, after it, and once measuring has ended in all processes.
        self._share: SphericalMotionMonitor | None = None
        # Ends what tells it by how much gradients are clipped.
        self._leave_clipping: Callable[[], None] | None = None
        # Where the measured values go, in the process that keeps the records.
        self._recording: Recording | None = None
        # What keeps others from writing there.
        self._hold: lock.Hold | None = None
        # Whether a fault has ended the measuring in this process.
        self._gave_up = False

    @property
    def keeps_records(self) -> bool:
        """Whether this process keeps the records of all.

        The first process does so from the start of training on, until a fault; the
        others read their share of the weights for it.
        """
        return self._recording is not None

    @property
    def monitor(self) -> SphericalMotionMonitor | None:
        """What measures, in the process that keeps the records; None in the others."""
        return None if self._recording is None else self._recording.monitor

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the window under way of the run that is resumed."""
        try:
            self._saved = checkpoint.get(CHECKPOINT_KEY)
            self._split(runner, checkpoint)
        except Exception as fault:
            runner.logger.warning(
                f'smd: the checkpoint is taken as it is: {type(fault).__name__}: '
                f'{one_line(fault)}'
            )

    @survive_or_refuse
    def before_train(self, runner: Runner) -> None:
        """Choose the layers, attach the monitor, open the records."""
        self._gave_up = False
        optimizer, entries = together(lambda: self._look_at(runner), all_processes())
        # What was found and proved may differ by chance between processes.
        entries = computed_in_main(lambda: self._proved(runner, entries))
        self._group = measuring_group(runner.model, optimizer)
        if self._group is not None or is_main_process():
            self._in_all(lambda: self._begin(runner, optimizer, entries))

    @survive
    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Tell the monitor the global iteration, and which optimizer steps."""
        if self._share is None:
            return
        if runner.optim_wrapper.optimizer is not self._share.optimizer:
            self._follow(runner, self._share)
        if self._recording is not None:
            self._recording.monitor.iteration = runner.iter

    @survive
    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Write the windows that have arrived; log one line per logging interval."""
        if self._recording is None:
            return
        self._recording.collect(wait=False)
        if self.every_n_train_iters(runner, self._recording.progress.interval):
            self._recording.progress.tell()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make a checkpoint that a run without the hook can resume as well."""
        self._save(runner, checkpoint)
        if (split := getattr(runner.optim_wrapper, 'split', None)) is None:
            return
        try:
            join_checkpoint(checkpoint, split)
        except Exception as fault:
            runner.logger.warning(
                'smd: a run without SMDOptimWrapperConstructor cannot resume the '
                f'checkpoint: {type(fault).__name__}: {one_line(fault)}'
            )

    @survive
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Report on the run so far, where that is wanted."""
        if self._recording is not None and self.report == 'val':
            report_now(runner)

    @survive
    def after_train(self, runner: Runner) -> None:
        """Write what is left, the window under way included."""
        self._finish(runner)
        self._detach()

    @survive
    def describe(self, runner: Runner, facts: Mapping[str, Any]) -> None:
        """Keep facts about the run, as plain values, beside its records.

        Args:
            runner: The run.
            facts: Names and values that JSON can hold.
        """
        if self._recording is not None:
            self._recording.describe(facts)

    @survive
    def add_columns(self, runner: Runner, more: Columns) -> None:
        """Have columns added to the records, as :meth:`.Recording.add_columns` does.

        Args:
            runner: The run.
            more: What makes the columns of rows.
        """
        if self._recording is not None:
            self._recording.add_columns(more)

    def give_up(self, runner: Runner, fault: Exception) -> None:
        """End the measuring in this process, with a warning; training goes on.

        A process that measures with others still takes part in their exchange, so
        that none of them waits for it. Before that has begun a fault is one of all
        processes.

        Args:
            runner: The run.
            fault: What went wrong.
        """
        if self._gave_up:
            return
        self._gave_up, self._recording = True, None
        with contextlib.suppress(Exception):
            lock.release(runner.work_dir, self._hold)
        with contextlib.suppress(Exception):
            if self._leave_clipping is not None:
                self._leave_clipping()
            if self._share is not None:
                self._share.withdraw()
        runner.logger.warning(
            f'smd: monitoring stopped at iteration {runner.iter + 1}, training goes '
            f'on: {type(fault).__name__}: {one_line(fault)}'
        )

    def _split(self, runner: Runner, checkpoint: dict) -> None:
        """Put a checkpoint's parameter groups as our constructor has them."""
        if (split := getattr(runner.optim_wrapper, 'split', None)) is None:
            return
        if (decays := getattr(runner.optim_wrapper, 'decays', None)) is not None:
            decays.set()  # auto_scale_lr has changed the rates by now
        split_checkpoint(checkpoint, split)
        groups = runner.optim_wrapper.optimizer.param_groups
        if runner._resume and (text := other_decay(checkpoint, groups)):
            runner.logger.warning(f'smd: {text}')

    def _look_at(self, runner: Runner) -> tuple[Optimizer, list[ScaleInvariance]]:
        """The optimizer and the weights to measure; refuses what cannot be."""
        refuse_second(runner, SMDHook)
        refuse_parts(runner, 'SMDHook', self.granularity)
        optimizer = optimizer_of(runner, 'SMDHook')
        entries = layers_to_measure(
            model_of(runner),
            optimizer,
            scale_invariance_of(runner),
            self.include,
            self.exclude,
            runner.logger.info,
        )
        return optimizer, entries

    def _proved(
        self, runner: Runner, entries: list[ScaleInvariance]
    ) -> list[ScaleInvariance]:
        """Take the folder, and hold what is believed of the weights against numbers."""
        self._hold = _take(runner.work_dir)
        if not self.verify:
            return entries
        if parts := wrapped_parts(model_of(runner)):
            runner.logger.warning(
                f'smd: scale invariance is not proved by numbers: {parts[0]} is '
                'wrapped for DDP by itself, and one process alone cannot run it'
            )
            return entries
        return proved(runner, entries)

    def _begin(
        self, runner: Runner, optimizer: Optimizer, entries: list[ScaleInvariance]
    ) -> None:
        """Attach the monitor; in the first process, open the records as well."""
        model = model_of(runner)
        parameters = parameters_of(model)
        self._share = SphericalMotionMonitor(
            optimizer,
            {entry.name: parameters[entry.name] for entry in entries},
            self.window,
            self.granularity,
            by_filter=filterwise(model, entries),
            process_group=self._group,
            shapes=whole_shapes(runner),
        )
        self._leave_clipping = follow_clipping(runner.optim_wrapper, self._share)
        if is_main_process():
            self._recording = begin_recording(
                runner, entries, self._share, self._saved, self.visualize, self._hold
            )

    def _follow(self, runner: Runner, share: SphericalMotionMonitor) -> None:
        """In all processes, go on at the optimizer that took the other's place."""
        self._end_window(runner)
        optimizer = runner.optim_wrapper.optimizer
        self._in_all(lambda: share.follow(optimizer))
        if self._leave_clipping is not None:  # the wrapper may be another one too
            self._leave_clipping()
            self._leave_clipping = follow_clipping(runner.optim_wrapper, share)
        clipping = clipping_of(runner.optim_wrapper)
        self.describe(runner, {'theory': share.theory, 'clipping': clipping})

    @survive
    def _end_window(self, runner: Runner) -> None:
        """Close the window under way before another optimizer is measured."""
        if self._recording is None:
            return
        runner.logger.warning(
            f'smd: the optimizer was replaced before iteration {runner.iter + 1}: the '
            'new one is measured from here on, in a new window'
        )
        self._recording.monitor.end_window()
        self._recording.collect()

    @survive
    def _save(self, runner: Runner, checkpoint: dict) -> None:
        if self._recording is not None:
            checkpoint[CHECKPOINT_KEY] = self._recording.state_dict()

    @survive
    def _finish(self, runner: Runner) -> None:
        if self._recording is None:
            return
        self._recording.end()
        lock.release(runner.work_dir, self._hold)
        self._recording.progress.tell()
        if self.report:
            report_now(runner)

    def _in_all(self, action: Callable[[], object]) -> None:
        """Do something in all processes; if one fails, all measure no more."""
        try:
            together(action, self._group)
        except Exception:
            self._detach()
            raise

    def _detach(self) -> None:
        """Stop reading.

        All processes have to do it after the same step: none waits for another then.
        """
        if self._leave_clipping is not None:
            self._leave_clipping()
        if self._share is not None:
            self._share.detach()
        self._share = self._leave_clipping = None


def _take(work_dir: str) -> lock.Hold:
    """Hold a folder; refuse one that another run writes to."""
    try:
        return lock.hold(work_dir)
    except lock.FolderInUse as fault:
        raise SettingError(
            f'SMDHook: work_dir {fault}: give this run another work_dir, or wait for '
            'that one to end'
        ) from None
