"""Angular updates of known recipes, for comparison.

Whether a layer is at its Δ* says nothing of whether Δ* is a sensible angle. What is
sensible nobody has derived; what recipes that work have in common can be looked up.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet._text import scientific
from smd_mmdet.theory import THEORIES

__all__ = ['Context', 'Recipe', 'in_context', 'known_recipes', 'peak_and_total']

# So many times beyond all known recipes is far outside.
_FAR = 2.0
# The data, which `python -m studies.recipes` writes.
_FILE = 'recipes.json'


@dataclass(frozen=True)
class Recipe:
    """A recipe that is known to work: a config that MMDetection ships.

    Args:
        title: What it trains.
        config: Path of the config in MMDetection's zoo.
        optimizer: Name of the optimizer.
        images: Images of a step of the optimizer, on all processes.
        iterations: Steps of the whole training.
        angular_update: Δ* at its highest rate, in rad/step.
        total: Δ* summed over the whole training, in rad.
        detection: Whether it trains a detector.
    """

    title: str
    config: str
    optimizer: str
    images: int
    iterations: int
    angular_update: float
    total: float
    detection: bool


@dataclass(frozen=True)
class Context:
    """An angular update beside those of known recipes.

    Args:
        angular_update: Δ* at the highest rate, or a measured Δ, in rad/step.
        total: The same summed over the training, in rad; None if it is not known.
        nearest: The recipes whose Δ* is nearest, the nearest first.
        outside: What to say if it is far from all of them; None if it is not.
    """

    angular_update: float
    total: float | None
    nearest: tuple[Recipe, ...]
    outside: str | None

    @property
    def text(self) -> str:
        """The angular update and the recipes beside it, in one sentence.

        Example:
            >>> print(in_context(1.45e-3, count=1).text)
            Δ* is 1.45e-3 rad an iteration at its highest; of known recipes the nearest
            are Mask R-CNN 1x 1.45e-3 (96 rad)
        """
        said = (
            f'Δ* is {scientific(self.angular_update)} rad an iteration at its highest'
        )
        if self.total is not None:
            said += f' and adds up to {_sum(self.total)} rad'
        near = ', '.join(
            f'{r.title} {scientific(r.angular_update)} ({_sum(r.total)} rad)'
            for r in self.nearest
        )
        return f'{said}; of known recipes the nearest are {near}'


@functools.cache
def known_recipes() -> tuple[Recipe, ...]:
    """The known recipes, by their angular update.

    Returns:
        The recipes, the smallest Δ* first.

    Example:
        >>> found = {recipe.title: recipe for recipe in known_recipes()}
        >>> f'{found["Mask R-CNN 1x"].angular_update:.2e}'
        '1.45e-03'
    """
    content = resources.files('smd_mmdet').joinpath(_FILE).read_text('utf-8')
    recipes = (Recipe(**entry) for entry in json.loads(content)['recipes'])
    return tuple(sorted(recipes, key=lambda recipe: recipe.angular_update))


def in_context(
    angular_update: float, total: float | None = None, count: int = 3
) -> Context:
    """Set an angular update beside those of known recipes.

    Args:
        angular_update: Δ* at the highest rate, or a measured Δ, in rad/step, > 0.
        total: The same summed over the training, in rad.
        count: How many recipes to set beside it.

    Returns:
        The nearest recipes, and whether it is far from all that train detectors: more
        than twice the largest, or less than half of the smallest.

    Raises:
        ValueError: If ``angular_update`` is not positive and finite.

    Example:
        >>> in_context(2e-3).outside is None
        True
        >>> print(in_context(0.02).outside)
        Δ* of 2.00e-2 rad an iteration is 4.4 times the largest of known recipes
        (RTMDet-s 4.59e-3)
    """
    if not 0 < angular_update < math.inf:
        raise ValueError(f'angular_update must be > 0, got {angular_update!r}')
    recipes = known_recipes()
    nearest = sorted(
        recipes, key=lambda r: abs(math.log(r.angular_update / angular_update))
    )
    return Context(
        angular_update, total, tuple(nearest[:count]), _outside(angular_update, total)
    )


def peak_and_total(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0, law: str = 'sgd'
) -> tuple[float, float]:
    """The largest Δ* of a schedule, and Δ* summed over it.

    Args:
        lr: Learning rate η ≥ 0, an array of one entry per iteration.
        weight_decay: Weight decay λ, a number or one entry per iteration.
        momentum: Momentum α, or β₁, likewise.
        law: The optimizer, a key of :data:`.THEORIES`.

    Returns:
        Both in rad; NaN where no Δ* holds for all layers.

    Example:
        >>> # √(2 · 0.01 · 0.5) = 0.1 for nine iterations, and half of it for one
        >>> peak, total = peak_and_total([*[0.5] * 9, 0.125], 0.01)
        >>> round(peak, 9), round(total, 9)
        (0.1, 0.95)
    """
    angles = np.sqrt(THEORIES[law].angular_update_sq(lr, weight_decay, momentum))
    return float(angles.max()), float(angles.sum())


def _sum(angle: float) -> str:
    return f'{angle:,.0f}' if angle >= 100 else f'{angle:.3g}'


def _outside(angular_update: float, total: float | None) -> str | None:
    """What to say of an angle, or a sum, that is far from all known ones."""
    said = f'Δ* of {scientific(angular_update)} rad an iteration'
    if found := _far(said, angular_update, lambda r: r.angular_update, scientific):
        return found
    if total is None or not total > 0:
        return None
    said = f'the sum of Δ* over the training, {_sum(total)} rad,'
    return _far(said, total, lambda recipe: recipe.total, _sum)


def _far(
    what: str,
    value: float,
    of: Callable[[Recipe], float],
    told: Callable[[float], str],
) -> str | None:
    """The same for one figure of a recipe."""
    known = [recipe for recipe in known_recipes() if recipe.detection]
    least, most = min(known, key=of), max(known, key=of)
    if value > _FAR * of(most):
        times = f'{value / of(most):.2g} times the largest'
        return f'{what} is {times} of known recipes ({most.title} {told(of(most))})'
    if value < of(least) / _FAR:
        times = f'1/{of(least) / value:.2g} of the smallest'
        return f'{what} is {times} of known recipes ({least.title} {told(of(least))})'
    return None
