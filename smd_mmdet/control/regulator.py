"""Measures how far weights turn, and decides by what they are to be multiplied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from smd_mmdet.checks import COSINE_LEFT
from smd_mmdet.monitor.readers import groups_of
from smd_mmdet.monitor.weights import MeasuredWeights
from smd_mmdet.theory import Theory

from .estimate import FEWEST_STEPS, DriveEstimate, persistence, relative_variance
from .factors import Factors, bounded, factors_to_angle
from .measuring import Phase, mean_square
from .prediction import Course, course_of
from .response import ClippedSteps, Response

__all__ = ['MAX_FACTOR', 'MAX_SHRINK', 'TOLERANCE', 'Regulator']

# Bound of a factor, and how far from 1 it is not worth while: one per cent of the norm
# is two of the angle.
MAX_FACTOR, TOLERANCE = 4.0, 0.01
# By how much a weight is shrunk at most for what so many steps have shown. A layer
# that turns too far may forget what it has learned, and its gradient may be about to
# grow: behind a norm whose weight begins with 0 it does.
MAX_SHRINK, STEPS = 2.0, 20
# Shrinking multiplies the momentum over the norm by its inverse square. Where weights
# are shrunk faster than the square root of α a step for long, old gradients are never
# forgotten: the weight comes to lie along its momentum, turns no more, and is shrunk
# for that. So once a weight has been shrunk by ROOM, it is by α^FADING a step at most.
ROOM, FADING = 16.0, 0.25
_FEWEST = 5
# A change of all norms so small that the response to it is in proportion.
_SMALL = 1e-3


class Regulator:
    """Decides on the factors of some weights.

    It asks the monitor what the weights have done since the last time, carries that
    over to the rates and norms of the steps to come, and tells the factors with which
    their mean square of Δ will be the wanted one.

    Args:
        optimizer: The optimizer.
        law: What is known of its equilibrium.
        weights: The weights by name, all trained by it.
        every: Steps from one measurement to the next.
        done: Steps that are done.
        clipped: Who is told of the clipping of each step; None for one of its own.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        law: Theory,
        weights: Mapping[str, nn.Parameter],
        every: int,
        done: int = 0,
        clipped: ClippedSteps | None = None,
    ) -> None:
        self.clipped = clipped or ClippedSteps(weights)
        self._optimizer, self._law, self._every = optimizer, law, every
        self._weights = dict(weights)
        self._phase = Phase(optimizer, self._weights, every, done)
        self._drive = DriveEstimate(len(self._weights))
        # What the rates of the measured steps were, which is told before they change.
        self._read = MeasuredWeights(optimizer, self._weights)
        self._settings: list[Tensor] = []
        hook = torch.compiler.disable(self._note_settings)
        self._handle = optimizer.register_step_post_hook(hook)
        # The norms at the last decision, once its factors were applied, and p.
        self._norms = np.full(len(self._weights), np.nan)
        self._course: Course | None = None
        # Δ_wanted/η at the last decision.
        self._aim = np.full(len(self._weights), np.nan)
        self._power = np.zeros(len(self._weights))
        # Δ² of each step since the last decision as it was foreseen, and the sum of it
        # over the steps before, since the last measurement.
        self._decided = done
        self._foreseen = np.full((0, len(self._weights)), np.nan)
        self._sum, self._steps = np.full(len(self._weights), np.nan), 0
        # Why a layer cannot follow, as the last measurement has shown it.
        self._why: dict[str, str] = {}
        # How far each weight may be shrunk before it waits for its momentum to fade, as
        # a logarithm; and what was known of the change at the last decision.
        self._room = np.full(len(self._weights), math.log(ROOM))
        self._known = np.ones(len(self._weights))

    def detach(self) -> None:
        """Measure no more."""
        self._handle.remove()
        self._phase.detach()

    def decide(
        self, wanted: np.ndarray, ahead: np.ndarray, done: int
    ) -> tuple[Factors, Response | None]:
        """The factors for the steps to come. It waits for the device, once.

        Args:
            wanted: Wanted Δ of each layer in each of these steps; NaN where nothing is
                wanted. Shape (steps, layers).
            ahead: Their learning rates, weight decays and momenta; shape (steps,
                layers, 3).
            done: Steps that are done.

        Returns:
            The factors, and which weights cannot follow; and how clipping answers to
            them, None where nothing is clipped.

        Raises:
            Exception: The fault of the monitor, if it has one.
        """
        norms = self._present_norms()
        self._follow_norms(norms)
        self._make_room(ahead[0, :, 2], done - self._decided)
        self._count_foreseen(done)
        measured = done - self._phase.started >= self._every
        if measured:
            self._measure(norms, done)
        response = self._response()
        self._power = self._power_of(response)
        drive = self._drive.expected
        self._course = course = course_of(ahead, self._law, self._power)
        multiplier = course.multiplier(drive, (wanted**2).mean(0))
        ratios, left_alone = {}, dict(self._why)
        for i, name in enumerate(self._weights):
            if name in left_alone:
                continue
            if not ahead[..., 0].max(0)[i] > 0:
                left_alone[name] = 'its learning rate is 0'
            elif not np.isfinite(wanted[:, i]).all():
                left_alone[name] = 'no decay'
            elif np.isfinite(multiplier[i]):
                ratios[name] = float(multiplier[i] ** -0.5)
        found = factors_to_angle(ratios, self._law, response)
        self._known = np.minimum(self._known_change(wanted, ahead), 1.0)
        found, waiting = self._held(found, self._share() if measured else 0.0)
        found = bounded(found, MAX_FACTOR, TOLERANCE)
        left_alone |= dict.fromkeys(waiting, 'held back, until its momentum has faded')
        return Factors(found, left_alone), response

    def applied(
        self, factors: Mapping[str, float], response: Response | None = None
    ) -> None:
        """Take note of what was really multiplied.

        Args:
            factors: The factor of each weight that was rescaled, by name.
            response: How clipping answers, as :meth:`decide` has told.
        """
        change = {} if response is None else response.change(factors, self._weights)
        c = np.array([factors.get(name, 1.0) for name in self._weights])
        kappa = np.array([change.get(name, 1.0) for name in self._weights])
        self._drive.scale(c**-self._law.exponent * kappa**2)
        self._norms = self._norms * c
        self._room += np.minimum(np.log(c / self._known), 0.0)
        if self._course is not None:
            self._foreseen = self._course.angles_sq(self._drive.expected)
        self.clipped.rescaled(factors)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        settings = torch.stack(self._settings) if self._settings else None
        return {
            'names': list(self._weights),
            'phase': self._phase.state_dict(),
            'settings': settings,
            'drive': self._drive.state_dict(),
            'norms': self._norms.tolist(),
            'aim': self._aim.tolist(),
            'decided': self._decided,
            'foreseen': self._foreseen.tolist(),
            'sum': self._sum.tolist(),
            'steps': self._steps,
            'power': self._power.tolist(),
            'why': dict(self._why),
            'room': self._room.tolist(),
            'clipped': self.clipped.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: If it is of other layers or of another ``every``.
        """
        if state['names'] != list(self._weights):
            raise ValueError('the saved state has other layers')
        if state['phase']['monitor'] is not None:
            self._phase.load_state_dict(state['phase'])
            settings = state['settings']
            self._settings = [] if settings is None else list(settings.unbind())
        self._drive.load_state_dict(state['drive'])
        self._norms, self._power = np.array(state['norms']), np.array(state['power'])
        self._why, self._aim = dict(state['why']), np.array(state['aim'])
        self._room = np.array(state.get('room', self._room))
        foreseen = np.array(state['foreseen']).reshape(-1, len(self._weights))
        self._decided, self._foreseen = state['decided'], foreseen
        self._sum, self._steps = np.array(state['sum']), state['steps']
        self.clipped.load_state_dict(state['clipped'])

    def _note_settings(self, optimizer: Optimizer, *_: object) -> None:
        """After a step: with which rates it was made."""
        self._read.find_groups(optimizer)
        self._read.read_settings(optimizer)
        self._settings.append(self._read.settings)

    @torch.no_grad()
    def _present_norms(self) -> np.ndarray:
        norms = torch._foreach_norm([w.detach() for w in self._weights.values()])
        stacked = torch.stack([norm.double() for norm in norms])
        return stacked.cpu().numpy()

    def _follow_norms(self, norms: np.ndarray) -> None:
        """Carry the estimates over to the norms of now."""
        known = np.isfinite(self._norms) & (self._norms > 0) & (norms > 0)
        grown = np.where(known, norms / np.where(known, self._norms, 1.0), 1.0)
        self._drive.scale(grown ** (self._power - self._law.exponent))
        self._norms = norms

    def _count_foreseen(self, done: int) -> None:
        """Add up what was foreseen of the steps since the last decision."""
        steps = self._foreseen[: done - self._decided]
        self._decided = done
        if len(steps):
            self._sum = self._sum + steps.sum(0)
            self._steps += len(steps)

    def _measure(self, norms: np.ndarray, done: int) -> None:
        """Take in what the steps since the last time have shown; begin anew."""
        windows = self._phase.windows()
        settings, self._settings = self._settings, []
        self._phase.begin_anew(done)
        self._why = {}
        if windows:
            self._take_in(windows, settings, norms)
            self._find_why(windows)
        self._sum, self._steps = np.zeros(len(self._weights)), 0

    def _take_in(
        self,
        windows: Mapping[str, np.ndarray],
        settings: list[Tensor],
        norms: np.ndarray,
    ) -> None:
        """Learn how far the weights turn: more than was foreseen, or less.

        What the forecast has wrong is made good with it. Before there is one, the norms
        and rates of the measured steps tell what that means at the norm of now.
        """
        count = windows['count'].sum(0)
        angle_sq = mean_square(windows, 'angular_update')
        drive, pace = self._drive.expected, self._pace(windows, settings, norms)
        known = np.isfinite(drive) & (self._sum > 0) & np.isfinite(self._sum)
        mean, momentum = _mean_angle(windows), settings[-1][:, 2].numpy()
        spread = np.maximum(angle_sq - mean**2, 0.0)
        with np.errstate(divide='ignore', invalid='ignore'):
            shown = angle_sq / (self._sum / max(self._steps, 1))
            measured = np.where(known, drive * shown, angle_sq / pace)
        fewest = min(FEWEST_STEPS, self._every)
        measured = np.where(count >= fewest, measured, np.nan)
        noise = relative_variance(mean, spread, count, momentum)
        largest = MAX_FACTOR ** (self._law.exponent * self._share())
        self._drive.update(measured, noise, persistence(count, momentum), largest)

    def _pace(
        self,
        windows: Mapping[str, np.ndarray],
        settings: list[Tensor],
        norms: np.ndarray,
    ) -> np.ndarray:
        """Mean of η²(‖w‖_now/‖w‖)^(q−p) over the measured steps; shape (layers,)."""
        s = self._law.exponent - self._power
        lr_sq = torch.stack(settings)[..., 0].numpy() ** 2
        total, start = np.zeros(len(norms)), 0
        for count, mean, variance in zip(
            windows['count'],
            windows['weight_norm_mean'],
            windows['weight_norm_var'],
            strict=True,
        ):
            steps = int(count.max())
            rates = lr_sq[start : start + steps].mean(0) if steps else 0.0
            start += steps
            with np.errstate(divide='ignore', invalid='ignore'):
                bend = 1 + s * (s + 1) / 2 * variance / mean**2
                of_window = rates * (norms / mean) ** s * bend
            total += np.where(count > 0, count * of_window, 0.0)
        return total / np.maximum(windows['count'].sum(0), 1)

    def _share(self) -> float:
        """Share of the bounds that hold for STEPS steps."""
        return min(1.0, max(self._every, _FEWEST) / STEPS)

    def _known_change(self, wanted: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """The factors that other rates and wanted angles ask for by themselves."""
        with np.errstate(divide='ignore', invalid='ignore'):
            aim = wanted[0] / ahead[0, :, 0]
            change = (self._aim / aim) ** (2 / self._law.exponent)
        self._aim = aim
        return np.nan_to_num(change, nan=1.0, posinf=1.0)

    def _make_room(self, momentum: np.ndarray, steps: int) -> None:
        """The momentum of some steps ago has faded: weights may be shrunk further."""
        if steps:
            with np.errstate(divide='ignore'):
                fading = -FADING * np.log(momentum)
            self._room = np.minimum(self._room + steps * fading, math.log(ROOM))

    def _held(
        self, factors: Mapping[str, float], share: float
    ) -> tuple[dict[str, float], list[str]]:
        """Factors that shrink no weight too much, for what was measured.

        What rates and wanted angles ask for is not held back.

        Args:
            factors: The factors that are wanted, by name.
            share: Share of the bound that holds.

        Returns:
            The factors, and the weights that wait for their momentum to fade.
        """
        held, waiting, bound = dict(factors), [], MAX_SHRINK**-share
        limits = zip(
            self._weights, self._known.tolist(), self._room.tolist(), strict=True
        )
        for name, known, room in limits:
            within_room = math.exp(-max(room, 0.0))
            lowest = known * max(bound, within_room)
            if held.get(name, 1.0) < lowest:
                held[name] = lowest
                if within_room > bound:
                    waiting.append(name)
        return held, waiting

    def _find_why(self, windows: Mapping[str, np.ndarray]) -> None:
        cosine_sq = mean_square(windows, 'cosine')
        gradient = np.where(windows['count'] > 0, windows['unit_grad_sq_max'], 0).max(0)
        groups = groups_of(self._optimizer, self._weights.values())
        for i, name in enumerate(self._weights):
            if groups[i] is None:
                self._why[name] = 'the optimizer does not train it'
            elif not gradient[i] > 0:
                self._why[name] = 'no gradient'
            elif cosine_sq[i] > COSINE_LEFT**2:
                self._why[name] = 'its gradient is not orthogonal to it'

    def _response(self) -> Response | None:
        """How clipping answers to a rescaling; None where it changes nothing."""
        if not self._law.clips or self.clipped.unclipped:
            return None
        return self.clipped.response()

    def _power_of(self, response: Response | None) -> np.ndarray:
        """The p of clipping: by how much the coefficients follow the norms."""
        if response is None:
            return np.zeros(len(self._weights))
        grown = dict.fromkeys(self._weights, 1 + _SMALL)
        change = response.change(grown, self._weights)
        logs = np.log([change[name] for name in self._weights])
        return 2 * logs / np.log1p(_SMALL)


def _mean_angle(windows: Mapping[str, np.ndarray]) -> np.ndarray:
    count = windows['count']
    share = count / np.maximum(count.sum(0), 1)
    return (share * np.where(count > 0, windows['angular_update_mean'], 0.0)).sum(0)
