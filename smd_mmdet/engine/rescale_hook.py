"""The hook that rescales scale-invariant weights to their equilibrium."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import BaseAveragedModel
from mmengine.registry import HOOKS
from torch import nn

from smd_mmdet import theory
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.rescaling import RescaleSettings
from smd_mmdet.invariance import Dependents, find_dependents
from smd_mmdet.invariance.sample_inputs import model_loss
from smd_mmdet.monitor.readers import reader_for
from smd_mmdet.rescale import (
    ConflictError,
    Multiplications,
    apply,
    plan,
    statistics_factors,
    unwrapped,
)

from .hook import SMDHook, accumulated, optimizer_of
from .layers import FROZEN_ADVICE, choose_layers, find_layers
from .parallel import refuse_sharded
from .rates import RateHistory
from .start import EquilibriumStart, Verdict
from .verify import batches

if TYPE_CHECKING:
    from mmengine.runner import Runner

CHECKPOINT_KEY = 'smd_rescale'
# A layer's output variance is kept this many times above its norm's ε, so that the ε
# is half a per cent of the output at most.
ABOVE_EPSILON = 100.0


def _survive(method: Callable) -> Callable:
    """A fault of the rescaling warns, ends the rescaling, and nothing else."""

    @functools.wraps(method)
    def guarded(self, runner, *args, **kwargs):
        if self._rates is None:
            return
        try:
            method(self, runner, *args, **kwargs)
        except Exception as fault:
            self._rates = None
            runner.logger.warning(
                f'smd: rescaling stopped at iteration {runner.iter + 1}, training goes '
                f'on: {type(fault).__name__}: {fault}'
            )

    return guarded


@HOOKS.register_module()
class SMDRescaleHook(Hook):
    """Puts scale-invariant weights at the equilibrium of a new learning rate.

    Where the rate is divided by k, w* falls by k^(1/4) (under AdamW by k^(1/2)), and
    weights that are left alone take many thousand iterations to follow. The hook
    multiplies them by that, and with them momentum, biases and running statistics, so
    that the model computes what it computed before. Averaged copies of the model
    (EMAHook) are scaled alike.

    Args:
        at_lr_drops: Rescale where a learning rate drops in a step: it held still
            before, and holds still after.
        continuous: Rescale at every change of a rate, up or down: warm-up, cosine,
            and linear schedules too.
        start_at_equilibrium: After the warm-up measure L of every layer and put it at
            its own w*, several times while L drifts. A dict sets ``begin``,
            ``measure``, ``repeats``, ``max_factor`` and ``tolerance``; see
            :class:`~smd_mmdet.config.rescaling.StartSettings`.
        exclude: Names or patterns of weights to leave alone.

    Raises:
        SettingError: On an unknown or bad setting; before the first iteration also
            if nothing is scale-invariant, or no equilibrium is known under the
            optimizer.

    Example:
        >>> custom_hooks = [dict(type='SMDHook'), dict(type='SMDRescaleHook')]
    """

    # After SMDHook, whose records it adds to, and after whoever changes a rate.
    priority = 'BELOW_NORMAL'

    def __init__(
        self,
        at_lr_drops: bool = True,
        continuous: bool = False,
        start_at_equilibrium: bool | Mapping = False,
        exclude: Sequence[str] | str | None = None,
        **unknown,
    ) -> None:
        self.settings = RescaleSettings.of(
            at_lr_drops, continuous, start_at_equilibrium, exclude, **unknown
        )
        self.history: list[dict] = []
        self._rates: RateHistory | None = None
        self._phases: EquilibriumStart | None = None
        self._saved: dict | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the rates that the run that is resumed has used."""
        self._saved = checkpoint.get(CHECKPOINT_KEY)

    def before_train(self, runner: Runner) -> None:
        """Find the weights, and what follows them."""
        refuse_sharded(runner, 'SMDRescaleHook')
        optimizer = optimizer_of(runner, 'SMDRescaleHook')
        self._theory = theory.THEORIES.get(reader_for(optimizer).theory)
        if self._theory is None:
            raise SettingError(
                'SMDRescaleHook: no equilibrium is known under '
                f'{type(optimizer).__name__}; take '
                f'{" or ".join(known.title for known in theory.THEORIES.values())}, or '
                'leave the hook out'
            )
        model = unwrapped(runner.model)
        entries = getattr(runner.optim_wrapper, 'scale_invariance', None)
        entries = find_layers(model) if entries is None else entries
        chosen = choose_layers(entries, exclude=self.settings.exclude)
        group_of = {
            id(p): i
            for i, group in enumerate(optimizer.param_groups)
            for p in group['params']
        }
        parameters = dict(model.named_parameters())
        self._groups = {
            entry.name: group_of[id(parameters[entry.name])]
            for entry in chosen
            if id(parameters[entry.name]) in group_of
        }
        if not self._groups:
            raise SettingError(f'SMDRescaleHook: no weight to rescale: {FROZEN_ADVICE}')
        self._refuse_short_phases(accumulated(runner))
        self._model, self._optimizer = model, optimizer
        self._dependents = _same_on_all_ranks(lambda: _dependents(runner, model))
        self._leave_alone(
            runner,
            {
                name: reason
                for name in self._groups
                if (reason := self._dependents.refused.get(name, 'it is not used'))
            },
        )
        self._rates = RateHistory(runner, optimizer, self._groups.values())
        if self.settings.start is not None:
            weights = {name: parameters[name] for name in self._groups}
            self._phases = EquilibriumStart(self.settings.start, optimizer, weights)
        if runner.iter > 0:
            self._resume(runner)

    @_survive
    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        """Rescale, where this iteration's rate or the end of a phase asks for it."""
        if runner.optim_wrapper.optimizer is not self._optimizer:
            raise RuntimeError('the optimizer was replaced by another one')
        drops = (
            self._rates.drops(self.settings.continuous)
            if self.settings.at_lr_drops
            else {}
        )
        if drops:
            self._follow(runner, drops)
        phases = self._phases
        if phases is not None and phases.due(runner.iter, self._rates.warmed_up()):
            self._go_to_equilibrium(runner)
        self._rates.advance()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the rates used, by weight: groups may be others at the resume."""
        if self._rates is None:
            return
        checkpoint[CHECKPOINT_KEY] = {
            'rates': {
                name: self._rates.state(group) for name, group in self._groups.items()
            },
            'start': self._phases and self._phases.state_dict(),
            'history': list(self.history),
        }

    @_survive
    def after_train(self, runner: Runner) -> None:
        """End what is still measured."""
        if self._phases is not None:
            self._phases.stop()

    # ---------------------------------------------------------------- parts

    def _refuse_short_phases(self, iterations: int) -> None:
        start = self.settings.start
        if start is not None and start.measure < iterations:
            raise SettingError(
                f'SMDRescaleHook: start_at_equilibrium.measure={start.measure} is '
                f'below optim_wrapper.accumulative_counts={iterations}: a phase so '
                'short sees no step; set measure to many times that'
            )

    def _resume(self, runner: Runner) -> None:
        saved = self._saved or {}
        rates = saved.get('rates', {})
        self._rates.resume(
            {g: rates[name] for name, g in self._groups.items() if name in rates}
        )
        self.history = list(saved.get('history', []))
        self._describe(runner)
        if self._phases is None or not saved.get('start'):
            return
        try:
            self._phases.load_state_dict(saved['start'], runner.iter)
        except (ValueError, KeyError) as fault:
            runner.logger.warning(f'smd: measuring begins anew at the resume: {fault}')

    def _follow(self, runner: Runner, drops: Mapping[int, float]) -> None:
        """Rescale for new rates, by parameter group."""
        by_group = {group: k**-self._theory.norm_power for group, k in drops.items()}
        factors = {
            name: by_group[group]
            for name, group in self._groups.items()
            if group in by_group
        }
        ratios = sorted({float(f'{k:.6g}') for k in drops.values()})
        text = ', '.join(f'{k:g}' for k in ratios)
        if self._rescale(runner, factors, f'learning rate divided by {text}'):
            self._note(runner, factors, 'learning rate', lr_divided_by=ratios)

    def _go_to_equilibrium(self, runner: Runner) -> None:
        verdict = None
        try:
            verdict = self._above_epsilon(self._phases.end_phase())
        except Exception as fault:
            runner.logger.warning(f'smd: layers are not put at equilibrium: {fault}')
        # Running statistics, and with them what the ε allows, are each process's own.
        verdict = _from_main(verdict)
        if verdict is None:
            self._phases.stop()
            return
        self._phases.go_on(runner.iter, verdict.settled)
        turn = f'{self._phases.done} of at most {self.settings.start.repeats}'
        factors, left = dict(verdict.factors), verdict.left_alone
        if not factors:
            runner.logger.info(
                f'smd: iteration {runner.iter + 1}: no weight to put at its '
                f'equilibrium ({turn}){_listed(left)}'
            )
        elif self._rescale(runner, factors, f'start at equilibrium {turn}', left):
            self._note(runner, factors, 'start at equilibrium')

    def _rescale(
        self,
        runner: Runner,
        factors: dict[str, float],
        cause: str,
        left_alone: Mapping[str, str] | None = None,
    ) -> bool:
        """Plan everything, then do it on all ranks or on none."""
        left = dict(left_alone or {})
        planned: Multiplications = []
        fault = None
        try:
            planned = self._plan(runner, factors, left)
        except Exception as error:
            fault = error
        if not _on_all_ranks(fault is None):
            told = fault or 'it failed in another process'
            runner.logger.warning(
                f'smd: weights are not rescaled at iteration {runner.iter + 1} '
                f'({cause}), training goes on: {told}'
            )
            return False
        apply(planned)
        runner.logger.info(
            f'smd: iteration {runner.iter + 1}: {len(factors)} scale-invariant weights '
            f'rescaled by {_range(factors.values())} ({cause}){_listed(left)}'
        )
        return bool(factors)

    def _plan(
        self, runner: Runner, factors: dict[str, float], left: dict[str, str]
    ) -> Multiplications:
        """A plan without the weights whose factors do not fit together."""
        copies = [
            hook.ema_model.module
            for hook in runner.hooks
            if isinstance(getattr(hook, 'ema_model', None), BaseAveragedModel)
        ]
        while True:
            try:
                return plan(
                    self._model, self._optimizer, factors, self._dependents, copies
                )
            except ConflictError as conflict:
                for name in conflict.names:
                    del factors[name]
                    left[name] = str(conflict)

    def _above_epsilon(self, verdict: Verdict) -> Verdict:
        """Factors that leave output variances well above the norms' ε."""
        factors, held = dict(verdict.factors), dict(verdict.left_alone)
        try:
            statistics = statistics_factors(self._dependents, factors)
        except ConflictError:  # told when the rescaling is planned
            return verdict
        for name, scale in statistics.items():
            norm: Any = self._model.get_submodule(name)
            lowest = min(c for _, c in scale)
            variance = float(norm.running_var.double().median())
            limit = min(
                1.0, math.sqrt(ABOVE_EPSILON * norm.eps / max(variance, 1e-300))
            )
            if lowest >= limit:
                continue
            share = math.log(limit) / math.log(lowest)
            calls = self._dependents.statistics[name]
            for weight in {p for call in calls for p in call if factors.get(p, 1) < 1}:
                factors[weight] **= share
                held[weight] = f'held back, {name} is near its ε'
        factors = {name: c for name, c in factors.items() if c != 1}
        return replace(verdict, factors=factors, left_alone=held)

    def _leave_alone(self, runner: Runner, reasons: Mapping[str, str]) -> None:
        for name, reason in reasons.items():
            del self._groups[name]
            runner.logger.warning(f'smd: {name} is not rescaled: {reason}')
        if not self._groups:
            raise SettingError(
                f'SMDRescaleHook: no weight can be rescaled, {next(iter(reasons))} '
                f'for one: {next(iter(reasons.values()))}'
            )

    def _note(
        self, runner: Runner, factors: Mapping[str, float], cause: str, **facts
    ) -> None:
        self.history.append(
            {
                'iteration': runner.iter + 1,
                'cause': cause,
                'weights': len(factors),
                'factor_min': min(factors.values()),
                'factor_max': max(factors.values()),
                **facts,
            }
        )
        self._describe(runner)

    def _describe(self, runner: Runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, SMDHook) and self.history:
                hook.describe(runner, {'rescaled': self.history})


def _dependents(runner: Runner, model: nn.Module) -> Dependents:
    try:
        for data in batches(runner, model):
            try:
                forward = functools.partial(model_loss, model, data)
                return find_dependents(model, forward=forward)
            except Exception:  # images too small for this model, say
                continue
    except Exception as fault:
        runner.logger.debug(f'smd: no batch to observe: {fault}')
    return find_dependents(model)


def _same_on_all_ranks(compute: Callable[[], Dependents]) -> Dependents:
    found: Any = None
    if dist.is_main_process():
        try:
            found = compute()
        except Exception as fault:
            found = SettingError(f'SMDRescaleHook: nothing can be rescaled: {fault}')
    found = _from_main(found)
    if isinstance(found, Exception):
        raise found
    return found


def _from_main(value: Dependents | Verdict | Exception | None):
    """The main process's value, in all processes."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def _on_all_ranks(ready: bool) -> bool:
    """Whether all processes are ready."""
    if dist.get_world_size() == 1:
        return ready
    flag = torch.tensor(int(ready))
    dist.all_reduce(flag, op='min')
    return bool(flag)


def _range(factors) -> str:
    low, high = min(factors, default=1), max(factors, default=1)
    return f'{low:.4g}' if low == high else f'{low:.4g} to {high:.4g}'


def _listed(left_alone: Mapping[str, str]) -> str:
    if not left_alone:
        return ''
    listed = ', '.join(f'{name} ({reason})' for name, reason in left_alone.items())
    return f'; left alone or held back: {listed}'
