"""The hook that attaches the monitor to a run and keeps its records."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from torch import distributed as dist
from torch import nn
from torch.optim import Optimizer

from smd_mmdet.checks.live import Standing, standing
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.settings import check_patterns, unknown_setting
from smd_mmdet.monitor.monitor import SphericalMotionMonitor
from smd_mmdet.records import FOLDER, RecordWriter

from . import lock
from .groups import join_checkpoint, other_decay, split_checkpoint
from .layers import (
    FROZEN_ADVICE,
    choose_layers,
    filterwise,
    find_layers,
)
from .metadata import output_variances, run_metadata
from .parallel import ddp_group, refuse_sharded
from .progress import one_line, scalars, summary
from .rates import planned_stages
from .reporting import check_report, report_now
from .verify import prove

if TYPE_CHECKING:  # MMEngine's runner imports its hooks, and with them this file
    from mmengine.runner import Runner

CHECKPOINT_KEY = 'smd_monitor'
# Windows kept in memory while the disk refuses them.
UNWRITTEN_WINDOWS = 200
# Over which the layers' standing is judged: L is noisy over fewer.
RECENT_ITERATIONS = 200


def _survive(method: Callable) -> Callable:
    """A fault of the monitoring warns, ends the monitoring, and nothing else."""

    @functools.wraps(method)
    def guarded(self, runner, *args, **kwargs):
        if self.monitor is None:
            return
        try:
            method(self, runner, *args, **kwargs)
        except Exception as fault:
            self._give_up(runner, fault)

    return guarded


@HOOKS.register_module()
class SMDHook(Hook):
    """Measures every scale-invariant weight at every iteration of a training run.

    Records go to ``WORK_DIR/smd/*.parquet``, window means to the Visualizer as
    ``smd/<quantity>/<layer>``, and one line per logging interval to the log. The
    weights trained are the same to the bit as without the hook. Under DDP each process
    reads its share of the layers, and the first one keeps the records; with
    ``granularity='filter'`` that one reads them all.

    Args:
        window: Optimizer steps per row of the records. Every step is measured,
            whatever the window.
        include: Names or patterns of parameters to measure besides those found to
            be scale-invariant; a name stands for everything below it. Weights that
            are not scale-invariant are measured as a control, without theory.
        exclude: Names or patterns of parameters not to measure.
        verify: Prove numerically before training that the measured weights are
            scale-invariant, and warn with the figures where they are not.
        visualize: Send window means to the Visualizer's backends.
        granularity: 'layer', or 'filter' to measure also each output channel of the
            weights that batch norm follows; its quantiles over a layer's channels go
            to the records.
        report: Write the report at the end of training (True), at each validation
            too ('val'); its figures go to the Visualizer.

    Raises:
        SettingError: On an unknown or bad setting; before the first iteration also
            if nothing is scale-invariant, SGD has Nesterov's momentum or dampening,
            training is sharded, or another process writes records to the same
            ``work_dir``. An optimizer without theory is measured all the same.

    Example:
        >>> custom_imports = dict(imports=['smd_mmdet'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SMDHook', window=50)]
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
        **unknown,
    ) -> None:
        known = [name for name in inspect.signature(SMDHook).parameters][:-1]
        for key in unknown:
            raise SettingError(unknown_setting('SMDHook', key, known))
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise SettingError(
                f'SMDHook: window must be an integer >= 1, got {window!r}'
            )
        for key, value in (('verify', verify), ('visualize', visualize)):
            if not isinstance(value, bool):
                raise SettingError(
                    f'SMDHook: {key} must be True or False, got {value!r}'
                )
        if granularity not in ('layer', 'filter'):
            raise SettingError(
                f"SMDHook: granularity must be 'layer' or 'filter', got {granularity!r}"
            )
        self.window = window
        self.granularity = granularity
        self.report = check_report(report)
        self.include = check_patterns('SMDHook: include', include)
        self.exclude = check_patterns('SMDHook: exclude', exclude)
        self.verify = verify
        self.visualize = visualize
        self.monitor: SphericalMotionMonitor | None = None
        # Of this process, which may read for the one that has self.monitor.
        self._reading: SphericalMotionMonitor | None = None
        self._saved_monitor: dict | None = None
        self._writer: RecordWriter | None = None
        self._unwritten: list[dict[str, np.ndarray]] = []
        self._recent: deque[dict[str, np.ndarray]] = deque(
            maxlen=max(1, RECENT_ITERATIONS // window)
        )
        self._standing: Standing | None = None
        # That of one window earlier: the live states have a memory.
        self._before: Standing | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the window under way of the run that is resumed."""
        self._saved_monitor = checkpoint.get(CHECKPOINT_KEY)
        if (split := getattr(runner.optim_wrapper, 'split', None)) is not None:
            split_checkpoint(checkpoint, split)
            groups = runner.optim_wrapper.optimizer.param_groups
            if runner._resume and (text := other_decay(checkpoint, groups)):
                runner.logger.warning(f'smd: {text}')

    def before_train(self, runner: Runner) -> None:
        """Choose the layers, attach the monitor, open the records."""
        refuse_sharded(runner, 'SMDHook')
        optimizer = optimizer_of(runner, 'SMDHook')
        model = getattr(runner.model, 'module', runner.model)
        entries = getattr(runner.optim_wrapper, 'scale_invariance', None)
        entries = choose_layers(
            find_layers(model) if entries is None else entries,
            self.include,
            self.exclude,
        )
        parameters = dict(model.named_parameters())
        entries = [entry for entry in entries if parameters[entry.name].requires_grad]
        if not entries:
            raise SettingError(f'SMDHook: no weight to measure: {FROZEN_ADVICE}')
        _hold(runner.work_dir)
        if is_main_process() and self.verify:
            entries = self._prove(runner, model, entries)
        group = ddp_group(runner.model) if self.granularity == 'layer' else None
        if group is not None:
            entries = _as_in_the_first(entries, group)
        elif not is_main_process():
            return
        fault = None
        try:
            self._reading = SphericalMotionMonitor(
                optimizer,
                {entry.name: parameters[entry.name] for entry in entries},
                self.window,
                self.granularity,
                by_filter=filterwise(model, entries),
                process_group=group,
            )
            if is_main_process():
                self.monitor = self._reading
                self._open(runner, model, entries)
        except Exception as error:
            fault = error
        self._group = group
        self._end_if(runner, fault)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        """Tell the monitor the global iteration, and which optimizer steps."""
        if self._reading is None:
            return
        if runner.optim_wrapper.optimizer is not self._reading.optimizer:
            self._follow(runner)
        if self.monitor is not None:
            self.monitor.iteration = runner.iter

    @_survive
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Write the windows that have arrived; log one line per logging interval."""
        if self.monitor.ready or self.monitor.fault is not None:
            self._collect(runner, wait=False)
        if self.every_n_train_iters(runner, self._interval):
            self._tell(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make a checkpoint that a run without the hook can resume as well."""
        if (split := getattr(runner.optim_wrapper, 'split', None)) is not None:
            join_checkpoint(checkpoint, split)
        self._save_window(runner, checkpoint)

    @_survive
    def _save_window(self, runner: Runner, checkpoint: dict) -> None:
        self._note_variances()
        # It waits for the device, and with it for the windows that are closed.
        state = None if self.monitor.fault else self.monitor.state_dict()
        self._collect(runner, wait=False)
        checkpoint[CHECKPOINT_KEY] = state

    @_survive
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Report on the run so far, where that is wanted."""
        if self.report == 'val':
            report_now(runner)

    def after_train(self, runner: Runner) -> None:
        """Write what is left, the window under way included."""
        self._finish(runner)
        self._detach()

    @_survive
    def _finish(self, runner: Runner) -> None:
        self.monitor.end_window()
        self._note_variances()
        self._collect(runner)
        if self._writer is not None:
            self._writer.merge()
        lock.release(runner.work_dir)
        self._tell(runner)
        if self.report:
            report_now(runner)

    @_survive
    def describe(self, runner: Runner, facts: dict) -> None:
        """Keep facts about the run, as plain values, beside its records."""
        self._metadata.update(facts)
        if self._writer is not None:
            self._writer.describe(self._metadata)

    # ---------------------------------------------------------------- parts

    def _prove(self, runner: Runner, model, entries: list) -> list:
        try:
            entries, warnings = prove(runner, model, entries)
        except Exception as fault:
            warnings = [f'scale invariance is not proved by numbers: {fault}']
        for warning in warnings:
            runner.logger.warning(f'smd: {one_line(warning)}')
        return entries

    def _follow(self, runner: Runner) -> None:
        """In all processes, go on at the optimizer that took the other's place."""
        self._end_window(runner)
        fault = None
        try:
            self._reading.follow(runner.optim_wrapper.optimizer)
        except Exception as error:
            fault = error
        self._end_if(runner, fault)
        if self.monitor is not None:
            self.describe(runner, {'theory': self.monitor.theory})

    @_survive
    def _end_window(self, runner: Runner) -> None:
        runner.logger.warning(
            f'smd: the optimizer was replaced before iteration {runner.iter + 1}: the '
            'new one is measured from here on, in a new window'
        )
        self.monitor.end_window()
        self._collect(runner)

    def _open(self, runner: Runner, model: nn.Module, entries: list) -> None:
        self._resume_from = None
        stages = planned_stages(runner)
        self._stage_ends = [span.end for span in stages]
        if runner.iter > 0:
            under_way = (s for s in stages if s.start <= runner.iter < s.end)
            number = next((span.stage.number for span in under_way), 0)
            self._continue(runner, number)
            self._resume_from = self.monitor.window_start
        self._entries, self._model = entries, model
        self._metadata = run_metadata(runner, model, entries, self.monitor)
        self._write(runner)
        self._interval = next(
            (hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)),
            self.window,
        )
        invariant = sum(entry.invariant for entry in entries)
        runner.logger.info(
            f'smd: {len(entries)} weights are measured at every iteration, {invariant} '
            f'of them scale-invariant; records in {Path(runner.work_dir, FOLDER)}'
        )

    def _continue(self, runner: Runner, stage: int) -> None:
        saved = self._saved_monitor
        if saved is None or saved['iteration'] > runner.iter:
            self.monitor.start_at(runner.iter, stage)
            return
        try:
            self.monitor.load_state_dict(saved)
        except (ValueError, KeyError) as fault:
            self.monitor.start_at(runner.iter, saved['stages'])
            runner.logger.warning(f'smd: a new window begins at the resume: {fault}')

    def _collect(self, runner: Runner, wait: bool = True) -> None:
        rows = self.monitor.collect(wait)
        if len(rows['iter']):
            self._store(runner, rows)
        if self.monitor.fault is not None:
            raise self.monitor.fault

    def _store(self, runner: Runner, rows: dict[str, np.ndarray]) -> None:
        self._look(runner, rows)
        self._unwritten.append(rows)
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        """Write what waits for it; what the disk refuses is tried again."""
        try:
            if self._writer is None:
                self._writer = RecordWriter(
                    runner.work_dir, self._metadata, self._resume_from
                )
                self._tell_what_was_moved(runner)
            while self._unwritten:
                self._writer.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as fault:
            lost = self._unwritten[:-UNWRITTEN_WINDOWS]
            del self._unwritten[:-UNWRITTEN_WINDOWS]
            told = f'{len(self._unwritten)} pieces are kept in memory to try again'
            if lost:
                told += f'; those up to iteration {lost[-1]["iter"][-1]} are lost'
            runner.logger.warning(
                f'smd: records cannot be written, training goes on: {fault} ({told})'
            )

    def _tell_what_was_moved(self, runner: Runner) -> None:
        if self._writer.set_aside:
            runner.logger.info(
                f'smd: records of an earlier run are now in {self._writer.set_aside}'
            )
        for path in self._writer.unreadable:
            runner.logger.warning(
                f'smd: records that cannot be read are now in {path}: their iterations '
                'are missing'
            )

    def _note_variances(self) -> None:
        for name, variance in output_variances(self._model, self._entries).items():
            self._metadata['layers'][name]['output_variance'] = variance
        if self._writer is not None:
            self._writer.describe(self._metadata)

    def _look(self, runner: Runner, rows: dict[str, np.ndarray]) -> None:
        """Judge where the layers stand, from the newest windows of this stage."""
        last = int(rows['iter'][-1])
        newest = {key: values[rows['iter'] == last] for key, values in rows.items()}
        if self._recent and self._recent[-1]['stage'][0] != newest['stage'][0]:
            self._recent.clear()
            self._before = None
        self._recent.append(newest)
        columns = {
            key: np.concatenate([window[key] for window in self._recent])
            for key in newest
        }
        end = next((end for end in self._stage_ends if end >= last), runner.max_iters)
        invariant = [entry.name for entry in self._entries if entry.invariant]
        self._standing = standing(
            columns,
            end - last,
            np.isin(newest['layer'], invariant),
            accumulated(runner),
            before=self._before,
        )
        self._before = self._standing
        if self.visualize:
            self._show(runner, scalars(newest, self._standing), last)

    def _show(self, runner: Runner, values: dict[str, float], step: int) -> None:
        try:
            runner.visualizer.add_scalars(values, step)
        except Exception as fault:  # a backend's: its disk, its network
            self.visualize = False
            runner.logger.warning(
                'smd: the Visualizer takes no scalars, records go on: '
                f'{type(fault).__name__}: {fault}'
            )

    def _tell(self, runner: Runner) -> None:
        if self._standing is not None:
            runner.logger.info(summary(self._standing))
            self._standing = None

    def _end_if(self, runner: Runner, fault: Exception | None) -> None:
        """End the monitoring in all processes if one of them has a fault."""
        if (fault := _fault_anywhere(fault, self._group)) is not None:
            self._give_up(runner, fault)
            self._detach()

    def _detach(self) -> None:
        """At the same moment in all processes: from then on none waits for another."""
        if self._reading is not None:
            self._reading.detach()
        self._reading = None

    def _give_up(self, runner: Runner, fault: Exception) -> None:
        if self.monitor is not None:
            self.monitor.withdraw()
        self.monitor = None
        lock.release(runner.work_dir)
        runner.logger.warning(
            f'smd: monitoring stopped at iteration {runner.iter + 1}, training goes '
            f'on: {type(fault).__name__}: {fault}'
        )


def optimizer_of(runner: Runner, hook: str) -> Optimizer:
    """The one optimizer of a run.

    Args:
        runner: The run.
        hook: Who asks, for the message.

    Raises:
        SettingError: If there are several, or SGD that the theory does not hold for.
    """
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, OptimWrapper):
        raise SettingError(
            f'{hook}: optim_wrapper holds several optimizers; the hook is for runs '
            'with a single one'
        )
    for group in wrapper.optimizer.param_groups:
        for key, fix in (('nesterov', False), ('dampening', 0)):
            if group.get(key):
                raise SettingError(
                    f'{hook}: optim_wrapper.optimizer.{key}={group[key]}: the theory '
                    f'holds for SGD without it; set {key}={fix}'
                )
    return wrapper.optimizer


def accumulated(runner: Runner) -> int:
    """Iterations to each step of the optimizer."""
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def _hold(work_dir: str) -> None:
    """Refuse, in every process, a folder that another run writes to."""
    told: list[str | None] = [None]
    if is_main_process():
        try:
            lock.hold(work_dir)
        except lock.FolderInUse as fault:
            told = [str(fault)]
    broadcast_object_list(told)
    if told[0] is not None:
        raise SettingError(
            f'SMDHook: work_dir {told[0]}: give this run another work_dir, or wait for '
            'that one to end'
        )


def _as_in_the_first(entries: list, group: dist.ProcessGroup) -> list:
    """The first process's list, in all: what was found may differ by chance."""
    told = [entries]
    dist.broadcast_object_list(told, src=dist.get_global_rank(group, 0), group=group)
    return told[0]


def _fault_anywhere(
    fault: Exception | None, group: dist.ProcessGroup | None
) -> Exception | None:
    """The fault of this process, or of another; in all of them, or in none."""
    if group is None:
        return fault
    told = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, fault and f'{type(fault).__name__}: {fault}', group)
    for rank, text in enumerate(told):
        if text is not None:
            return RuntimeError(f'process {rank}: {text}')
    return None
