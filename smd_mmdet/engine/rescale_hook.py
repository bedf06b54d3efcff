"""The hook that rescales scale-invariant weights to their equilibrium."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.optim import Optimizer

from smd_mmdet._text import one_line
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.rescaling import RescaleSettings
from smd_mmdet.control.factors import above_epsilon, factors_to_angle, law_of
from smd_mmdet.control.response import ClippedSteps, Response
from smd_mmdet.theory import Theory

from .clipping import follow_clipping, unknown_clipping
from .controlling import Control, Source, source_of
from .faults import survive, survive_or_refuse
from .hook import SMDHook
from .parallel import (
    all_processes,
    computed_in_main,
    from_main,
    refuse_sharded,
    together,
    wrapped_parts,
)
from .rates import RateHistory
from .rescalable import Rescalable, find_groups, find_rescalable
from .rescaling import listed, rescale_weights
from .runs import accumulated, model_of, optimizer_of, refuse_second
from .start import EquilibriumStart

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['CHECKPOINT_KEY', 'SMDRescaleHook']

CHECKPOINT_KEY = 'smd_rescale'


@dataclass(frozen=True)
class _Work:
    """What the hook works with during a run.

    Args:
        law: What is known of the optimizer's equilibrium.
        targets: The weights that can be rescaled.
        rates: The learning rates they have had.
        phases: The phases of the start at equilibrium; None if it is not wanted.
        clipped: The last steps whose gradients were clipped.
        leave_clipping: Ends what tells of them.
        control: What sets the angular update; None if none is wanted.
    """

    law: Theory
    targets: Rescalable
    rates: RateHistory
    phases: EquilibriumStart | None
    clipped: ClippedSteps
    leave_clipping: Callable[[], None]
    control: Control | None = None

    def stop(self) -> None:
        """End all that is still measured."""
        self.leave_clipping()
        if self.phases is not None:
            self.phases.stop()
        if self.control is not None:
            self.control.stop()


@HOOKS.register_module()
class SMDRescaleHook(Hook):
    """Puts scale-invariant weights at the equilibrium of a new learning rate.

    Where the rate is divided by k, w* falls by k^(1/4), or by k^(1/2) under AdamW and
    where gradients are clipped at every step. Weights that are left alone take many
    thousand iterations to follow. The hook multiplies them by that, and with them
    momentum, biases and running statistics, so that the model computes what it computed
    before. Averaged copies of the model (EMAHook) are scaled alike. With
    ``optim_wrapper.clip_grad`` the norms of the last 200 steps' gradients tell how
    clipping answers.

    A fault of the hook's own warns and ends the rescaling; training goes on.

    Args:
        at_lr_drops: Whether to rescale where a learning rate drops in a step: it held
            still before, and holds still after.
        continuous: Whether to rescale at every change of a rate, up or down: warm-up,
            cosine, and linear schedules too.
        start_at_equilibrium: Whether to measure L of every layer after the warm-up
            and put it at its own w*, several times while L drifts. A dict sets
            ``begin``, ``measure``, ``repeats``, ``max_factor`` and ``tolerance``; see
            :class:`~smd_mmdet.config.rescaling.StartSettings`.
        exclude: Names or patterns of weights to leave alone.
        angular_update: The Δ, root mean square in radians per step, that every layer
            is given from then on, whatever the rate: a number; a dict of ``value`` and
            ``param_scheduler``, MMEngine's schedulers, which change Δ as they would
            change a rate; 'equilibrium', for Δ* of each moment's rate and decay; or
            the folder of a run whose recorded Δ is repeated, layer by layer
            (``dict(run=..., scale_time=True)`` stretches it to this training). Drops
            and the start need nothing else then.
        every: Steps of the optimizer from one measurement of Δ to the next. At each one
            the device is waited for; at more than 1 Δ comes less near to what is
            wanted, since the gradients of so many steps cannot be foreseen.

    Raises:
        SettingError: On an unknown or bad setting; before the first iteration also
            if nothing is scale-invariant, no equilibrium is known under the
            optimizer, or the run has the hook twice.

    Example:
        In a config it follows SMDHook, whose records then tell what was rescaled:

        >>> custom_imports = dict(imports=['smd_mmdet'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='SMDHook'),
        ...                 dict(type='SMDRescaleHook', exclude=['backbone.conv1'])]

        MMEngine's Runner builds it from that:

        >>> from mmengine.registry import HOOKS
        >>> hook = HOOKS.build(custom_hooks[1])
        >>> hook.settings.at_lr_drops, hook.settings.continuous, hook.settings.exclude
        (True, False, ('backbone.conv1',))
        >>> hook.history                   # what was done, once training has begun
        []
    """

    # After SMDHook, whose records it adds to, and after whoever changes a rate.
    priority = 'BELOW_NORMAL'

    def __init__(
        self,
        at_lr_drops: bool = True,
        continuous: bool = False,
        start_at_equilibrium: bool | Mapping = False,
        exclude: Sequence[str] | str | None = None,
        angular_update: object = None,
        every: int = 1,
        **unknown: Any,
    ) -> None:
        self.settings = RescaleSettings.of(
            at_lr_drops,
            continuous,
            start_at_equilibrium,
            exclude,
            angular_update,
            every,
            **unknown,
        )
        self.history: list[dict] = []
        # What the checkpoint that is resumed has of the hook.
        self._saved: dict | None = None
        # None before training, and after a fault.
        self._work: _Work | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the rates that the run that is resumed has used."""
        self._saved = checkpoint.get(CHECKPOINT_KEY)

    @survive_or_refuse
    def before_train(self, runner: Runner) -> None:
        """Find the weights, and what follows them."""
        everyone = all_processes()
        optimizer, groups = together(lambda: self._look_at(runner), everyone)
        targets = find_rescalable(runner, optimizer, groups)
        source = None
        if (control := self.settings.control) is not None:
            source = computed_in_main(lambda: source_of(runner, control))
        together(lambda: self._begin(runner, targets, source), everyone)

    @survive
    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Rescale, where this iteration's rate or the end of a phase asks for it."""
        if (work := self._work) is None:
            return
        if runner.optim_wrapper.optimizer is not work.targets.optimizer:
            raise RuntimeError('the optimizer was replaced by another one')
        if self.settings.at_lr_drops:
            drops = work.rates.drops(self.settings.continuous)
            if drops:
                self._follow_rates(runner, work, drops)
        if work.phases is not None:
            self._follow_phases(runner, work, work.phases)
        if work.control is not None:
            work.control.before_iteration(runner)
        work.rates.advance()

    @survive
    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """See whether the iteration has made a step, before a checkpoint is saved."""
        if self._work is not None and self._work.control is not None:
            self._work.control.after_iteration(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the rates used, by weight: groups may be others at the resume."""
        if (work := self._work) is None:
            return
        # Only the main process saves, so a fault here must not end the rescaling.
        try:
            checkpoint[CHECKPOINT_KEY] = self._state(work)
        except Exception as fault:
            runner.logger.warning(
                'smd: a checkpoint is saved without the state of SMDRescaleHook, which '
                f'measures anew at a resume: {type(fault).__name__}: {one_line(fault)}'
            )

    @survive
    def after_train(self, runner: Runner) -> None:
        """End what is still measured."""
        if self._work is not None:
            self._work.stop()

    def give_up(self, runner: Runner, fault: Exception) -> None:
        """End the rescaling, with a warning; training goes on.

        Args:
            runner: The run.
            fault: What went wrong.
        """
        work, self._work = self._work, None
        with contextlib.suppress(Exception):
            if work is not None:
                work.stop()
        runner.logger.warning(
            f'smd: rescaling stopped at iteration {runner.iter + 1}, training goes '
            f'on: {type(fault).__name__}: {one_line(fault)}'
        )

    def _look_at(self, runner: Runner) -> tuple[Optimizer, dict[str, int]]:
        """The optimizer and the weights; refuses what cannot be rescaled."""
        refuse_second(runner, SMDRescaleHook)
        refuse_sharded(runner, 'SMDRescaleHook')
        if parts := wrapped_parts(model_of(runner)):
            raise SettingError(
                f'SMDRescaleHook: model_wrapper_cfg.type={type(runner.model).__name__}:'
                f' {parts[0]} is wrapped for DDP by itself, and what follows its '
                'weights is not known; set '
                'model_wrapper_cfg.type=MMDistributedDataParallel, or leave the hook '
                'out'
            )
        optimizer = optimizer_of(runner, 'SMDRescaleHook')
        _law_of(optimizer)
        groups = find_groups(runner, optimizer, self.settings.exclude)
        self._refuse_short_phases(accumulated(runner))
        return optimizer, groups

    def _begin(
        self, runner: Runner, targets: Rescalable, source: Source | None
    ) -> None:
        """Be ready for the first iteration, or for the one after a checkpoint's."""
        optimizer = targets.optimizer
        rates = RateHistory(runner, optimizer, targets.groups.values())
        phases = None
        if self.settings.start is not None:
            phases = EquilibriumStart(self.settings.start, optimizer, targets.weights)
        clipped = ClippedSteps(targets.weights)
        leave = follow_clipping(runner.optim_wrapper, clipped)
        law = _law_of(optimizer)
        control = None
        if source is not None and (settings := self.settings.control) is not None:
            control = Control(runner, targets, law, settings, source, clipped)
        self._work = _Work(law, targets, rates, phases, clipped, leave, control)
        self._tell_of_unknown_clipping(runner)
        if runner.iter > 0:
            self._resume(runner, self._work, self._saved or {})
        if control is not None:
            self._tell_of_control(runner, control)

    def _state(self, work: _Work) -> dict:
        """Plain values and tensors, for a checkpoint."""
        groups = work.targets.groups
        return {
            'rates': {name: work.rates.state(group) for name, group in groups.items()},
            'start': work.phases and work.phases.state_dict(),
            'history': list(self.history),
            'clipped': work.clipped.state_dict(),
            'control': work.control and work.control.state_dict(),
        }

    def _tell_of_unknown_clipping(self, runner: Runner) -> None:
        if why := unknown_clipping(runner.optim_wrapper):
            runner.logger.warning(
                f'smd: it is not known by how much gradients are clipped ({why}): '
                'weights are rescaled as if they were not'
            )

    def _tell_of_control(self, runner: Runner, control: Control) -> None:
        """Tell the log and the records that the angular update is set."""
        if (settings := self.settings.control) is None:
            return
        runner.logger.info(
            f'smd: Δ of {len(control.names)} scale-invariant weights is set to '
            f'{settings}, measured every {settings.every} steps'
        )
        for hook in runner.hooks:
            if isinstance(hook, SMDHook) and hook.keeps_records:
                control.columns.wanted_by_records = True
                hook.add_columns(runner, control.columns.of)
                facts = {'wanted': str(settings), 'every': settings.every}
                hook.describe(runner, {'controlled': facts})

    def _refuse_short_phases(self, iterations: int) -> None:
        start = self.settings.start
        if start is not None and start.measure < iterations:
            raise SettingError(
                f'SMDRescaleHook: start_at_equilibrium.measure={start.measure} is '
                f'below optim_wrapper.accumulative_counts={iterations}: a phase so '
                'short sees no step; set measure to many times that'
            )

    def _resume(self, runner: Runner, work: _Work, saved: Mapping[str, Any]) -> None:
        rates = saved.get('rates', {})
        groups = work.targets.groups
        work.rates.resume(
            {g: rates[name] for name, g in groups.items() if name in rates}
        )
        self.history = list(saved.get('history', []))
        self._describe(runner)
        if saved.get('clipped'):
            work.clipped.load_state_dict(saved['clipped'])
        try:
            if work.phases is not None and saved.get('start'):
                work.phases.load_state_dict(saved['start'], runner.iter)
            if work.control is not None and saved.get('control'):
                work.control.load_state_dict(saved['control'])
        except (ValueError, KeyError) as fault:
            runner.logger.warning(f'smd: measuring begins anew at the resume: {fault}')

    def _follow_rates(
        self, runner: Runner, work: _Work, drops: Mapping[int, float]
    ) -> None:
        """Where a group's rate is divided by k, w* falls as the law has it."""
        response = self._response(runner, work)
        # A step turns k times less than before it, and should turn √k times less.
        ratios_of = {group: k**-0.5 for group, k in drops.items()}
        factors = factors_to_angle(
            {
                name: ratios_of[group]
                for name, group in work.targets.groups.items()
                if group in ratios_of
            },
            work.law,
            response,
        )
        ratios = sorted({float(f'{k:.6g}') for k in drops.values()})
        text = f'learning rate divided by {", ".join(f"{k:g}" for k in ratios)}'
        applied = self._rescale(runner, work, response, factors, text)
        self._note(runner, applied, 'learning rate', response, lr_divided_by=ratios)

    def _follow_phases(
        self, runner: Runner, work: _Work, phases: EquilibriumStart
    ) -> None:
        """Begin the first phase, or end one, where it is time."""
        if phases.begins(runner.iter, work.rates.warmed_up()):
            together(lambda: phases.begin(runner.iter), all_processes())
        elif phases.ends(runner.iter):
            self._go_to_equilibrium(runner, work, phases)

    def _go_to_equilibrium(
        self, runner: Runner, work: _Work, phases: EquilibriumStart
    ) -> None:
        """Put every layer at the w* that a phase has shown; begin the next phase."""
        verdict = None
        response = self._response(runner, work)
        try:
            verdict = phases.end_phase(response)
            targets = work.targets
            verdict = above_epsilon(verdict, targets.model, targets.dependents)
        except Exception as fault:
            runner.logger.warning(f'smd: layers are not put at equilibrium: {fault}')
        # Running statistics, and with them what the ε allows, are each process's own.
        verdict = from_main(verdict)
        if verdict is None:
            phases.stop()
            return
        settled = verdict.settled
        together(lambda: phases.go_on(runner.iter, settled), all_processes())
        turn = f'{phases.done} of at most {phases.settings.repeats}'
        if not verdict.factors:
            runner.logger.info(
                f'smd: iteration {runner.iter + 1}: no weight to put at its '
                f'equilibrium ({turn}){listed(verdict.left_alone)}'
            )
            return
        text = f'start at equilibrium {turn}'
        applied = self._rescale(
            runner, work, response, verdict.factors, text, verdict.left_alone
        )
        self._note(runner, applied, 'start at equilibrium', response)

    def _response(self, runner: Runner, work: _Work) -> Response | None:
        """How clipping answers to a rescaling, the same in all processes."""
        if work.clipped.unclipped or unknown_clipping(runner.optim_wrapper):
            return None
        response = computed_in_main(work.clipped.response)
        if response is None:
            runner.logger.warning(
                'smd: no step was seen yet that tells how often gradients are clipped: '
                'weights are rescaled as if they were not'
            )
        return response

    def _rescale(
        self,
        runner: Runner,
        work: _Work,
        response: Response | None,
        factors: Mapping[str, float],
        cause: str,
        left_alone: Mapping[str, str] | None = None,
    ) -> Mapping[str, float]:
        """Rescale weights, and turn what is known of clipping into what follows."""
        if response is not None and (share := response.clipped_share) > 0:
            cause = f'{cause}, {share:.0%} of the last steps clipped'
        applied = rescale_weights(
            runner, work.targets, factors, cause, left_alone, response
        )
        work.clipped.rescaled(applied)
        return applied

    def _note(
        self,
        runner: Runner,
        applied: Mapping[str, float],
        cause: str,
        response: Response | None,
        **facts: Any,
    ) -> None:
        """Add a rescaling to the history, if any weight was rescaled."""
        if not applied:
            return
        if response is not None:
            facts['clipped_share'] = response.clipped_share
        self.history.append(
            {
                'iteration': runner.iter + 1,
                'cause': cause,
                'weights': len(applied),
                'factor_min': min(applied.values()),
                'factor_max': max(applied.values()),
                **facts,
            }
        )
        self._describe(runner)

    def _describe(self, runner: Runner) -> None:
        """Have SMDHook keep the history beside its records."""
        for hook in runner.hooks:
            if isinstance(hook, SMDHook) and self.history:
                hook.describe(runner, {'rescaled': self.history})


def _law_of(optimizer: Optimizer) -> Theory:
    """What is known of an optimizer's equilibrium."""
    try:
        return law_of(optimizer)
    except ValueError as fault:
        raise SettingError(f'SMDRescaleHook: {fault}, or leave the hook out') from fault
