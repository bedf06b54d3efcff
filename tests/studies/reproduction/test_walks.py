"""The reproduction's random walks, against vectors and a recurrence."""

import numpy as np
import pytest

from studies.reproduction import walks


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_inner_products_walk_as_vectors_do(momentum):
    rng = np.random.default_rng(0)
    lr, decay, size = 0.3, 0.02, 12
    w, v = rng.standard_normal(size), np.zeros(size)
    state = (np.array([w @ w]), np.zeros(1), np.zeros(1))
    for _ in range(200):
        direction = rng.standard_normal(size)
        direction -= w * (direction @ w) / (w @ w)
        direction /= np.linalg.norm(direction)
        tangential = v - w * (v @ w) / (w @ w)
        length = np.linalg.norm(tangential)
        cosine = direction @ tangential / length if length else 0.0
        unit = rng.uniform(0.5, 1.5)
        g = np.sqrt(unit) * direction / np.linalg.norm(w)
        h = (g @ g + 2 * momentum * (v @ g)) * (w @ w)
        v = momentum * v + g + decay * w
        u = w - lr * v
        angle = np.arctan2(
            np.linalg.norm(u - w * (u @ w) / (w @ w)) * np.linalg.norm(w), u @ w
        )
        w = u
        state, got_angle, got_h = walks.advance(
            state, np.array([unit]), np.array([cosine]), lr, decay, momentum
        )
        assert np.ravel(state) == pytest.approx([w @ w, w @ v, v @ v], rel=1e-9)
        assert [got_angle[0], got_h[0]] == pytest.approx([angle, h], rel=1e-7)


def test_without_noise_a_walk_follows_its_recurrence():
    lr, decay = 0.2, 0.01
    walk = walks.Walks(np.full(50, lr), decay, start=4.0, spread=0.0, number=2)
    norm_sq = 2 * np.sqrt(lr / (2 * decay))
    for step in range(50):
        assert walk.norm_sq[step] == pytest.approx(norm_sq, rel=1e-12)
        norm_sq = (1 - lr * decay) ** 2 * norm_sq + lr**2 / norm_sq
