"""How clipping answers to a rescaling.

The gradient of a scale-invariant weight grows as the weight shrinks, but the total norm
of clipped gradients does not. So where steps are clipped, a rescaling changes the clip
coefficient, and with it the equilibrium that it aims at. The norms of the last steps'
gradients tell what the coefficient would have been with other norms of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ['ClippedSteps', 'Response']

# The norms of so many steps are kept.
KEPT = 200
# The factors are found by repetition, each of which leaves p/q, at most a half, of the
# distance.
_TIMES = 60


class ClippedSteps:
    """The norms of the last steps' gradients, before they were clipped, on the device.

    Args:
        weights: The weights that can be rescaled, by name.

    Attributes:
        unclipped: Whether gradients are known not to be clipped.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> steps = ClippedSteps({'conv': weight})
        >>> weight.grad = torch.tensor([0.0, 0.5])  # of (0, 2), clipped to 0.5
        >>> steps.note_clipping(torch.tensor(2.0), max_norm=0.5, norm_type=2.0)
        >>> response = steps.response()
        >>> response.clipped_share, response.squares.round(4).tolist()
        (1.0, [[4.0]])
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.unclipped = False
        self._weights = dict(weights)
        first = next(iter(self._weights.values()))
        # Of each step: the norm of all gradients, the largest that it may be, and the
        # norms of the weights' own gradients.
        shape = KEPT, 2 + len(self._weights)
        self._rows = torch.full(
            shape, torch.nan, dtype=torch.float64, device=first.device
        )
        self._none = torch.zeros((), dtype=first.dtype, device=first.device)
        self._number = 0

    @torch.no_grad()
    def note_clipping(
        self, total_norm: Tensor, max_norm: float, norm_type: float
    ) -> None:
        """Keep the norms of a step whose gradients have just been clipped.

        Args:
            total_norm: Norm of all gradients before.
            max_norm: The largest that it may be.
            norm_type: Which norm that is; nothing is kept of another than the
                Euclidean one, whose square is a sum over the weights.
        """
        if norm_type not in (2, '2'):
            return
        grads = [p.grad for p in self._weights.values()]
        norms = torch._foreach_norm([self._none if g is None else g for g in grads])
        row = self._rows[self._number % KEPT]
        row[0] = total_norm
        row[1] = max_norm
        row[2:] = torch.stack([norm.to(self._none.dtype) for norm in norms])
        row[2:] /= (row[1] / (row[0] + 1e-6)).clamp(max=1.0)
        self._number += 1

    @torch.no_grad()
    def rescaled(self, factors: Mapping[str, float]) -> None:
        """Turn the norms into those that the rescaled weights would have had.

        Args:
            factors: The factor of each weight that was rescaled, by name.
        """
        inverse = self._rows.new_tensor(
            [1 / factors.get(name, 1.0) for name in self._weights]
        )
        total, own = self._rows[:, 0], self._rows[:, 2:]
        more = (own.square() * (inverse.square() - 1)).sum(1)
        total.copy_((total.square() + more).clamp_min(0).sqrt())
        own.mul_(inverse)

    def response(self) -> Response | None:
        """What the steps tell; None if there was none. It waits for the device."""
        if not self._number:
            return None
        rows = self._rows[: self._number].cpu().numpy()
        # A step that AMP left out has infinite gradients.
        rows = rows[np.isfinite(rows).all(1) & (rows[:, 0] > 0)]
        if not len(rows):
            return None
        return Response(
            list(self._weights), rows[:, 0] ** 2, rows[:, 1], rows[:, 2:] ** 2
        )

    def state_dict(self) -> dict:
        """Plain values and tensors, for a checkpoint."""
        kept = self._rows[: self._number].cpu().clone()
        return {'names': list(self._weights), 'rows': kept, 'number': self._number}

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`; what is of other weights is left."""
        if state['names'] == list(self._weights):
            self._rows[: len(state['rows'])] = state['rows'].to(self._rows)
            self._number = state['number']


@dataclass(frozen=True)
class Response:
    """The gradients of some steps, before they were clipped.

    Args:
        names: Names of the weights that can be rescaled.
        total: Squared norm of all gradients; shape (steps,).
        max_norm: What the norm was clipped to; shape (steps,).
        squares: Squared norm of each weight's gradient; shape (steps, weights).

    Example:
        Every step is clipped, and there are no other gradients: the coefficient follows
        the weight, and at a rate divided by 4 the norm has to be halved.

        >>> squares = np.array([[4.0], [9.0]])
        >>> response = Response(['conv'], squares[:, 0], np.full(2, 0.5), squares)
        >>> factors = response.settled({'conv': 0.25**0.25}, exponent=4)
        >>> round(factors['conv'], 3)
        0.5
        >>> change = response.change(factors, ['conv'])
        >>> round(change['conv'], 3)
        0.5
    """

    names: Sequence[str]
    total: np.ndarray
    max_norm: np.ndarray
    squares: np.ndarray

    @property
    def clipped_share(self) -> float:
        """Share of the steps that were clipped."""
        return float((self._coefficient(self.total) < 1).mean())

    def settled(
        self, factors: Mapping[str, float], exponent: float
    ) -> dict[str, float]:
        """The factors that lead to equilibrium once clipping has answered to them.

        Args:
            factors: The factor w*/‖w‖ of each weight by name, as it would be if the
                clip coefficients stayed what they are.
            exponent: The power q in w*^q ∝ E‖ĝ‖²‖w‖².

        Returns:
            The factors c with c^q = (w*/‖w‖)^q · E[κ′²‖g‖²]/E[κ²‖g‖²], where κ is the
            clip coefficient of a step and κ′ that at all the norms c‖w‖.
        """
        settled = dict(factors)
        for _ in range(_TIMES):
            change = self.change(settled, settled)
            settled = {
                name: c * change[name] ** (2 / exponent) for name, c in factors.items()
            }
        return settled

    def change(
        self, factors: Mapping[str, float], names: Iterable[str]
    ) -> dict[str, float]:
        """By what a rescaling multiplies the clip coefficients, as a root mean square.

        Args:
            factors: The factor of each weight that is rescaled, by name.
            names: Names of parameters, the weights' or others'.

        Returns:
            The change for each of these parameters: the mean over the steps has the
            weights of its squared gradients, or of those of all other parameters.
        """
        inverse = np.array([factors.get(name, 1.0) ** -2 for name in self.names])
        total = self.total + self.squares @ (inverse - 1)
        before = self._coefficient(self.total) ** 2
        after = self._coefficient(np.maximum(total, 0)) ** 2
        rest = np.maximum(self.total - self.squares.sum(1), 1e-12 * self.total)
        found = {}
        for name in names:
            known = name in self.names
            of_name = self.squares[:, self.names.index(name)] if known else rest
            whole = float(before @ of_name)
            ratio = float(after @ of_name) / whole if whole > 0 else 1.0
            found[name] = math.sqrt(ratio)
        return found

    def _coefficient(self, total: np.ndarray) -> np.ndarray:
        return np.minimum(1.0, self.max_norm / (np.sqrt(total) + 1e-6))
