"""Scale-invariant weights under the optimizers of the zoo, moved step by step.

The loss depends on the direction of w only, so the gradient is tangential and of norm
‖g̃‖/‖w‖. Nothing of smd_mmdet is used: every optimizer is written out as torch
documents it, in float64, and tests hold the steps against torch.optim itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# An optimizer: from gradient, weight, rate, decay and its own state to the new weight.
Stepper = Callable[[np.ndarray, np.ndarray, float, float, dict], np.ndarray]


def sgd(
    momentum: float = 0.9, nesterov: bool = False, dampening: float = 0.0
) -> Stepper:
    """torch.optim.SGD."""

    def step(g, w, lr, decay, state):
        g = g + decay * w
        first = 'v' not in state
        state['v'] = g if first else momentum * state['v'] + (1 - dampening) * g
        return w - lr * (g + momentum * state['v'] if nesterov else state['v'])

    return step


def adam(
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-12,
    decoupled: bool = True,
    nesterov: bool = False,
) -> Stepper:
    """torch.optim.AdamW; Adam where decay is not decoupled; NAdam of constant β₁."""

    def step(g, w, lr, decay, state):
        if decoupled:
            shrunk = w * (1 - lr * decay)
        else:
            shrunk, g = w, g + decay * w
        t = state['t'] = state.get('t', 0) + 1
        state['m'] = beta1 * state.get('m', 0.0) + (1 - beta1) * g
        state['s'] = beta2 * state.get('s', 0.0) + (1 - beta2) * g * g
        root = np.sqrt(state['s'] / (1 - beta2**t)) + eps
        mean = state['m'] / (1 - beta1**t)
        if nesterov:
            mean = beta1 * state['m'] / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (
                1 - beta1**t
            )
        state['update'] = mean / root
        return shrunk - lr * state['update']

    return step


def lion(beta1: float = 0.9, beta2: float = 0.99) -> Stepper:
    """Lion, as its paper has it (arXiv 2302.06675)."""

    def step(g, w, lr, decay, state):
        m = state.get('m', np.zeros_like(g))
        state['update'] = np.sign(beta1 * m + (1 - beta1) * g)
        state['m'] = beta2 * m + (1 - beta2) * g
        return w - lr * (state['update'] + decay * w)

    return step


def lamb(beta1: float = 0.9, beta2: float = 0.999) -> Stepper:
    """LAMB (arXiv 1904.00962): an AdamW step of the length of the weight."""
    inner = adam(beta1, beta2)

    def step(g, w, lr, decay, state):
        inner(g, w, 0.0, 0.0, state)
        update = state['update'] + decay * w
        trust = np.linalg.norm(w, axis=-1) / np.linalg.norm(update, axis=-1)
        return w - lr * trust[..., None] * update

    return step


@dataclass
class Course:
    """What a walk did; every array has the shape (steps, layers).

    Args:
        norm: ‖w‖ before the step.
        angle: Angle of the step.
        unit_grad_sq: ‖g‖²‖w‖² of the gradient that was applied.
        along: ⟨v₋₁, g⟩‖w‖², with the momentum buffer before the step; 0 without one.
        update_sq: ‖m̂/√v̂‖² of an adaptive optimizer; 0 of another.
        total_norm: Norm of all gradients together, before it is clipped.
        weights: The weights at the end.
        state: The optimizer's state at the end.
    """

    norm: np.ndarray
    angle: np.ndarray
    unit_grad_sq: np.ndarray
    along: np.ndarray
    update_sq: np.ndarray
    total_norm: np.ndarray
    weights: np.ndarray
    state: dict


def walk(
    step: Stepper,
    lr: np.ndarray,
    decay: float,
    norm: float | np.ndarray,
    *,
    size: int = 64,
    layers: int = 8,
    seed: int = 0,
    unit_grad: float = 1.0,
    noise: float = 0.0,
    correlation: float = 0.0,
    max_norm: float = np.inf,
    rescale: Callable[[int, np.ndarray, dict], np.ndarray] | None = None,
) -> Course:
    """Move weights by random tangential gradients.

    Args:
        step: The optimizer.
        lr: Learning rate, one entry per iteration.
        decay: Weight decay.
        norm: ‖w‖ at the start, a number or one per layer.
        size: How many numbers a weight has.
        layers: How many independent weights there are.
        seed: Seed of the random numbers.
        unit_grad: Root mean square of ‖g̃‖.
        noise: Variance of ‖g̃‖²/L, drawn log-normal, the same for all layers.
        correlation: Correlation of a gradient with the one before.
        max_norm: Limit on the gradient's norm over all layers together.
        rescale: Called before each step; returns the weights to go on with.
    """
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((layers, size))
    w *= (np.broadcast_to(norm, layers) / np.linalg.norm(w, axis=1))[:, None]
    state: dict = {}
    last = np.zeros_like(w)
    names = ('norm', 'angle', 'unit_grad_sq', 'along', 'update_sq', 'total_norm')
    out = {name: np.zeros((len(lr), layers)) for name in names}
    spread = np.sqrt(np.log1p(noise))
    for t, rate in enumerate(lr):
        if rescale is not None:
            w = rescale(t, w, state)
        ww = (w * w).sum(1, keepdims=True)
        fresh = rng.standard_normal(w.shape)
        direction = correlation * last + np.sqrt(1 - correlation**2) * fresh
        last = direction
        direction = direction - w * (direction * w).sum(1, keepdims=True) / ww
        direction = direction / np.sqrt(size - 1)
        factor = rng.lognormal(-(spread**2) / 2, spread)
        g = unit_grad * np.sqrt(factor) * direction / np.sqrt(ww)
        total = np.linalg.norm(g)
        g = g * min(1.0, max_norm / (total + 1e-6))
        out['norm'][t] = np.sqrt(ww[:, 0])
        out['unit_grad_sq'][t] = (g * g).sum(1) * ww[:, 0]
        if 'v' in state:
            out['along'][t] = (state['v'] * g).sum(1) * ww[:, 0]
        out['total_norm'][t] = total
        u = step(g, w, float(rate), decay, state)
        if 'update' in state:
            out['update_sq'][t] = (state['update'] ** 2).sum(1)
        cross = (u * w).sum(1)
        across = np.linalg.norm(u - w * (cross / ww[:, 0])[:, None], axis=1)
        out['angle'][t] = np.arctan2(across * np.sqrt(ww[:, 0]), cross)
        w = u
    return Course(**out, weights=w, state=state)
