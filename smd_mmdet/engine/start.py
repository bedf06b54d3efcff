"""Start at equilibrium: measure L of every layer, then put each at its own w*.

Under SGD the equilibrium norm of a layer is w*⁴ = Lη / (λ(1 − α)(2 − λη/(1 + α))), see
:func:`smd_mmdet.theory.equilibrium_norm`. η, λ and α are known; L, the mean square of
its unit gradient, has to be measured. L drifts after the norms have been changed, so
there are several phases of measuring, each followed by a rescaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from smd_mmdet.config.rescaling import StartSettings
from smd_mmdet.control.factors import Factors, bounded, factors_to_angle
from smd_mmdet.control.measuring import Measured, Phase, angle_at_norm
from smd_mmdet.control.response import Response
from smd_mmdet.monitor.readers import groups_of, settings_of
from smd_mmdet.theory import THEORIES

__all__ = ['EquilibriumStart', 'Verdict']


@dataclass(frozen=True)
class Verdict(Factors):
    """What a measuring phase has shown.

    Args:
        factors: Factor of each weight that is away from its equilibrium, by name,
            within the bounds of the settings.
        left_alone: Why a weight gets no factor, or one nearer to 1, by name.
        settled: Whether all weights are at their equilibrium.
    """

    settled: bool = False


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
        ratios: dict[str, float] = {}
        left_alone: dict[str, str] = {}
        groups = groups_of(self._optimizer, self._weights.values())
        for (name, weight), layer, group in zip(
            self._weights.items(), measured, groups, strict=True
        ):
            found: float | str = 'the optimizer does not train it'
            if group is not None:
                settings = settings_of(self._optimizer.param_groups[group])
                found = angle_at_norm(weight, layer, settings, law)
            if isinstance(found, str):
                left_alone[name] = found
            else:
                ratios[name] = found
        factors = factors_to_angle(ratios, THEORIES[law], response) if ratios else {}
        near = self.settings.tolerance
        settled = bool(factors) and all(abs(c - 1) <= near for c in factors.values())
        factors = bounded(factors, self.settings.max_factor, near)
        return Verdict(factors, left_alone, settled)
