"""Start at equilibrium: measure L of every layer, then put each at its own w*.

Under SGD the equilibrium norm of a layer is w*⁴ = Lη / (λ(1 − α)(2 − λη/(1 + α))), see
:func:`smd_mmdet.theory.equilibrium_norm`. η, λ and α are known; L, the mean square of
its unit gradient, has to be measured. L drifts after the norms have been changed, so
there are several phases of measuring, each followed by a rescaling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from smd_mmdet.config.rescaling import StartSettings
from smd_mmdet.monitor.readers import groups_of, settings_of
from smd_mmdet.rescale import ConflictError, statistics_factors
from smd_mmdet.theory import THEORIES

from .phase import Measured, Phase, factor_to_equilibrium
from .rescalable import Rescalable
from .response import Response

__all__ = ['EquilibriumStart', 'Verdict', 'above_epsilon']

# A layer's output variance is kept this many times above its norm's ε, so that the ε
# is half a per cent of the output at most.
ABOVE_EPSILON = 100.0


@dataclass(frozen=True)
class Verdict:
    """What a measuring phase has shown.

    Args:
        factors: Factor w*/‖w‖ of each weight that is away from its equilibrium, by
            name, within the bounds of the settings.
        left_alone: Why a weight gets no factor, or one nearer to 1, by name.
        settled: Whether all weights are at their equilibrium.
    """

    factors: Mapping[str, float]
    left_alone: Mapping[str, str]
    settled: bool


class EquilibriumStart:
    """Measuring phases, one after the other, and what follows from each.

    Args:
        settings: When the phases begin, how long each is, and how far it may move a
            weight.
        optimizer: The optimizer of the run.
        weights: The scale-invariant weights by name.
    """

    def __init__(
        self,
        settings: StartSettings,
        optimizer: Optimizer,
        weights: Mapping[str, nn.Parameter],
    ) -> None:
        self.settings = settings
        self.done = 0
        self.finished = False
        self._optimizer = optimizer
        self._weights = dict(weights)
        self._phase: Phase | None = None

    def begins(self, iteration: int, warmed_up: bool) -> bool:
        """Whether it is time for the first phase.

        Args:
            iteration: Iterations done.
            warmed_up: Whether no learning rate rises any more.
        """
        if self.finished or self._phase is not None:
            return False
        begin = self.settings.begin
        return warmed_up if begin is None else iteration >= begin

    def begin(self, iteration: int) -> None:
        """Begin the first phase."""
        self._phase = self._new_phase(iteration)

    def ends(self, iteration: int) -> bool:
        """Whether the phase under way is over."""
        if self._phase is None:
            return False
        return iteration - self._phase.started >= self.settings.measure

    def end_phase(self, response: Response | None = None) -> Verdict:
        """Tell what the phase under way has shown.

        Args:
            response: How clipping answers to a rescaling; None where nothing is
                clipped.

        Raises:
            RuntimeError: If there is none.
            Exception: The fault of its monitor, if it has one.
        """
        if self._phase is None:
            raise RuntimeError('no measuring phase is under way')
        return self._judge(self._phase.end(), self._phase.theory, response)

    def go_on(self, iteration: int, settled: bool) -> None:
        """Begin the next phase, unless the one under way is the last.

        Args:
            iteration: Iterations done.
            settled: Whether all weights were found at their equilibrium.
        """
        self.done += 1
        if settled or self.done >= self.settings.repeats:
            self.stop()
            return
        if self._phase is not None:
            self._phase.detach()
        self._phase = self._new_phase(iteration)

    def stop(self) -> None:
        """End for good."""
        if self._phase is not None:
            self._phase.detach()
        self._phase, self.finished = None, True

    def state_dict(self) -> dict:
        """Plain values and tensors, for a checkpoint."""
        phase = {'started': 0, 'rows': [], 'monitor': None}
        if self._phase is not None:
            phase = self._phase.state_dict()
        return {'done': self.done, 'finished': self.finished, **phase}

    def load_state_dict(self, state: dict, iteration: int) -> None:
        """Continue from :meth:`state_dict`.

        Args:
            state: What it returned.
            iteration: Iterations done; a phase that cannot go on begins anew there.

        Raises:
            ValueError: If the phase under way measured other layers.
        """
        self.done, self.finished = state['done'], state['finished']
        if state['monitor'] is not None:
            self._phase = self._new_phase(iteration)
            self._phase.load_state_dict(state)

    def _new_phase(self, iteration: int) -> Phase:
        return Phase(self._optimizer, self._weights, self.settings.measure, iteration)

    def _judge(
        self, measured: list[Measured], law: str, response: Response | None
    ) -> Verdict:
        if not measured:
            return Verdict({}, {}, settled=False)
        factors: dict[str, float] = {}
        left_alone: dict[str, str] = {}
        groups = groups_of(self._optimizer, self._weights.values())
        for (name, weight), layer, group in zip(
            self._weights.items(), measured, groups, strict=True
        ):
            found: float | str = 'the optimizer does not train it'
            if group is not None:
                settings = settings_of(self._optimizer.param_groups[group])
                found = factor_to_equilibrium(weight, layer, settings, law)
            if isinstance(found, str):
                left_alone[name] = found
            else:
                factors[name] = found
        known = THEORIES[law] if factors else None
        if response is not None and known is not None and known.clips:
            factors = response.settled(factors, known.exponent)
        near, limit = self.settings.tolerance, self.settings.max_factor
        settled = bool(factors) and all(abs(c - 1) <= near for c in factors.values())
        factors = {
            name: min(max(c, 1 / limit), limit)
            for name, c in factors.items()
            if abs(c - 1) > near
        }
        return Verdict(factors, left_alone, settled)


def above_epsilon(verdict: Verdict, targets: Rescalable) -> Verdict:
    """Hold factors back that would bring output variances near a norm's ε.

    A norm divides by √(variance + ε), so that scale invariance ends where the variance
    of what it normalizes comes near ε.

    Args:
        verdict: The factors that are wanted.
        targets: The weights, with the running statistics of the norms after them.

    Returns:
        Factors that leave each variance at 100 ε at least, if it was above.
    """
    factors, held = dict(verdict.factors), dict(verdict.left_alone)
    try:
        statistics = statistics_factors(targets.dependents, factors)
    except ConflictError:  # told when the rescaling is planned
        return verdict
    for name, scale in statistics.items():
        norm: Any = targets.model.get_submodule(name)
        lowest = min(c for _, c in scale)
        variance = float(norm.running_var.double().median())
        limit = min(1.0, math.sqrt(ABOVE_EPSILON * norm.eps / max(variance, 1e-300)))
        if lowest >= limit:
            continue
        share = math.log(limit) / math.log(lowest)
        calls = targets.dependents.statistics[name]
        for weight in {p for call in calls for p in call if factors.get(p, 1) < 1}:
            factors[weight] **= share
            held[weight] = f'held back, {name} is near its ε'
    factors = {name: c for name, c in factors.items() if c != 1}
    return replace(verdict, factors=factors, left_alone=held)
