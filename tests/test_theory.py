"""Equations against closed forms worked out by hand, and against a random walk."""

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smd_mmdet import theory

rates = st.floats(1e-6, 1.0)
decays = st.floats(1e-8, 0.1)
momenta = st.floats(0.0, 0.99)


def test_coco_figures():
    """lr 0.02, weight decay 1e-4, momentum 0.9: the worked case of the paper."""
    assert theory.angular_update(0.02, 1e-4, 0.9) == pytest.approx(1.4510e-3, rel=1e-4)
    assert theory.angular_update(2e-4, 1e-4, 0.9) == pytest.approx(1.451e-4, rel=1e-3)
    assert theory.relaxation_rate(0.02, 1e-4, 0.9) == pytest.approx(4e-5, rel=1e-12)
    # ln 10 · 0.1 / (2 · 1e-4 · 2e-3) = 575,646.3
    assert theory.iterations_to_equilibrium(2e-3, 1e-4, 10, 0.9) == 575_647
    assert theory.rescale_factor(10) == pytest.approx(0.5623413, rel=1e-6)
    # With L = 1: (0.02 / (1e-4 · 0.1 · 2))^(1/4) = 1000^(1/4)
    norm = theory.equilibrium_norm(0.02, 1e-4, 1.0, 0.9)
    assert norm == pytest.approx(1000**0.25, rel=1e-6)


def test_imagenet_figures():
    assert theory.angular_update(0.2, 1e-4, 0.9) == pytest.approx(
        math.sqrt(4e-5 / 1.9), rel=1e-12
    )
    assert theory.equilibrium_norm(0.1, 1e-4, 3.0) == pytest.approx(
        (3.0 * 0.1 / 2e-4) ** 0.25, rel=1e-12
    )
    assert theory.adamw_angular_update(1e-3, 0.05, 0.9) == pytest.approx(
        math.sqrt(2 * 1e-3 * 0.05 * 0.1 / 1.9), rel=1e-12
    )


@given(lr=rates, weight_decay=decays, momentum=momenta)
def test_weight_decay_for_inverts_the_angular_update(lr, weight_decay, momentum):
    angle = theory.angular_update(lr, weight_decay, momentum)
    back = theory.weight_decay_for(angle, lr, momentum)
    assert back == pytest.approx(weight_decay, rel=1e-12)


@given(lr=rates, weight_decay=decays, momentum=momenta, scale=st.floats(1e-3, 1e3))
def test_equilibrium_norm_balances_growth_and_decay(lr, weight_decay, momentum, scale):
    """At w*, the angle that gradients of this size give is Δ*."""
    norm = theory.equilibrium_norm(lr, weight_decay, scale)
    # SGD: the tangential step is ηg = η√L/‖w‖, so Δ = η√L/‖w‖².
    angle = lr * math.sqrt(scale) / norm**2
    assert angle == pytest.approx(theory.angular_update(lr, weight_decay), rel=1e-9)


@given(lr=rates, weight_decay=decays, momentum=momenta, drop=st.floats(1.01, 100))
def test_rescaling_leads_from_one_equilibrium_to_the_next(
    lr, weight_decay, momentum, drop
):
    before = theory.equilibrium_norm(lr, weight_decay, 2.0, momentum)
    after = theory.equilibrium_norm(lr / drop, weight_decay, 2.0, momentum)
    # Up to the second-order term of Theorem 2.
    slack = lr * weight_decay
    assert after / before == pytest.approx(
        theory.rescale_factor(drop), rel=slack + 1e-9
    )


def test_no_decay_has_no_equilibrium():
    assert theory.equilibrium_norm(0.1, 0.0, 1.0) == math.inf
    assert theory.equilibrium_norm(0.1, 0.0, 1.0, 0.9) == math.inf
    assert theory.angular_update(0.1, 0.0) == 0
    assert theory.relaxation_rate(0.1, 0.0, 0.9) == 0
    assert theory.equilibrium_norm(0.1, 1e-4, 0.0, 0.9) == 0


def test_the_equations_take_what_is_measured():
    """A learning rate or decay of 0 and a negative or missing h̃ raise nothing."""
    lr = np.array([0.1, 0.0, 0.1, 0.1, 0.1])
    decay = np.array([1e-4, 1e-4, 0.0, 1e-4, 1e-4])
    h = np.array([2.0, 2.0, 2.0, -2.0, np.nan])
    norm4 = theory.equilibrium_norm4(lr, decay, h, 0.9)
    assert norm4[0] == pytest.approx(0.2 / (1e-5 * (2 - 1e-5 / 1.9)), rel=1e-12)
    assert norm4[1] == 0 and norm4[2] == np.inf
    assert norm4[3] == -norm4[0] and np.isnan(norm4[4])
    assert theory.norm4_rate(lr, decay, 0.9)[:3] == pytest.approx([4e-4, 0, 0])
    assert theory.angular_update_sq(lr, decay)[:3] == pytest.approx([2e-5, 0, 0])
    np.testing.assert_array_equal(theory.second_order(lr, decay), 2)


@given(lr=rates, weight_decay=decays, momentum=momenta)
def test_checked_and_unchecked_equations_are_the_same(lr, weight_decay, momentum):
    settings = lr, weight_decay, momentum
    angle = theory.angular_update(*settings)
    assert angle == np.sqrt(theory.angular_update_sq(*settings))
    assert theory.relaxation_rate(*settings) == theory.norm4_rate(*settings) / 2
    norm = theory.equilibrium_norm(lr, weight_decay, 2.0, momentum)
    norm4 = theory.equilibrium_norm4(lr, weight_decay, 2.0, momentum)
    assert norm == pytest.approx(norm4**0.25, rel=1e-14)


def test_arrays_broadcast_in_float64():
    lr = np.array([0.1, 0.01], dtype=np.float32)[:, None]
    decay = np.array([1e-4, 1e-3, 1e-2], dtype=np.float32)
    for function in (theory.angular_update, theory.relaxation_rate):
        values = function(lr, decay, 0.9)
        assert values.shape == (2, 3)
        assert values.dtype == np.float64
        assert values[1, 2] == function(lr[1, 0], decay[2], 0.9)
    assert theory.equilibrium_norm(lr, decay, 1.0, [0.0, 0.5, 0.9]).shape == (2, 3)
    counts = theory.iterations_to_equilibrium(lr, decay, 10, 0.9)
    assert counts.shape == (2, 3)
    assert counts.dtype == np.int64
    assert isinstance(theory.iterations_to_equilibrium(0.1, 1e-4, 10), int)
    assert isinstance(theory.angular_update(0.1, 1e-4), float)


def test_the_corollary_counts_whole_iterations():
    assert theory.iterations_to_equilibrium(0.1, 1e-4, 1) == 0
    exact = math.log(2) * 0.5 / (2 * 1e-4 * 0.1)
    assert theory.iterations_to_equilibrium(0.1, 1e-4, 2, 0.5) == math.ceil(exact)


GOOD = {
    'lr': 0.1,
    'weight_decay': 1e-4,
    'momentum': 0.9,
    'unit_grad_sq': 1.0,
    'lr_drop': 10.0,
    'angular_update': 1e-3,
    'beta1': 0.9,
    'variance': 1.0,
    'lower_bound': 0.1,
    'distance': 10.0,
    'tolerance': 0.2,
    'norm_power': 0.5,
    'total_norm': [0.5, 2.0],
    'max_norm': 1.0,
    'update_sq': 3.0,
    'beta2': 0.99,
    'unit_grad_norm': 0.5,
    'weight_norm': 2.0,
    'size': 64,
}
BAD = {
    'lr': [0, -0.1],
    'weight_decay': [-1e-4],
    'momentum': [-0.1, 1, 1.5],
    'unit_grad_sq': [-1],
    'lr_drop': [0, -1],
    'angular_update': [0, -1e-3],
    'beta1': [-0.1, 1],
    'variance': [-1],
    'lower_bound': [0],
    'distance': [-1],
    'tolerance': [0],
    'norm_power': [0, -0.5],
    'total_norm': [-1],
    'max_norm': [0, -1],
    'update_sq': [-1],
    'beta2': [-0.1, 1],
    'unit_grad_norm': [-1],
    'weight_norm': [0, -1],
    'size': [0, -4],
}
ALWAYS_BAD = [math.nan, math.inf, -math.inf, 'fast', None, [0.1, math.nan]]
# These take whatever was measured.
UNCHECKED = (
    *('angular_update_sq', 'second_order', 'equilibrium_norm4', 'norm4_rate'),
    'nesterov_angular_update_sq',
)
FUNCTIONS = [
    function
    for name in theory.__all__
    if inspect.isfunction(function := getattr(theory, name)) and name not in UNCHECKED
]
CASES = [
    (function, name, value)
    for function in FUNCTIONS
    for name in inspect.signature(function).parameters
    if name in BAD
    for value in BAD[name] + ALWAYS_BAD
]


@pytest.mark.parametrize(('function', 'name', 'value'), CASES)
def test_errors_name_the_argument(function, name, value):
    arguments = {key: GOOD[key] for key in inspect.signature(function).parameters}
    function(**arguments)
    with pytest.raises(ValueError, match=rf'\b{name}\b'):
        function(**{**arguments, name: value})


def test_settings_under_which_sgd_diverges_are_refused():
    with pytest.raises(ValueError, match=r'weight_decay \* lr'):
        theory.equilibrium_norm(10.0, 0.5, 1.0, 0.9)
    with pytest.raises(ValueError, match='weight_decay must be > 0'):
        theory.iterations_to_equilibrium(0.1, 0.0, 10)
    with pytest.raises(ValueError, match='lr_drop must be >= 1'):
        theory.iterations_to_equilibrium(0.1, 1e-4, 0.5)


def random_walk(lr, weight_decay, momentum, steps, dimension=400, seed=0):
    """SGD on a random scale-invariant loss: unit gradients tangential to w.

    Returns the weight norms, the angles of each step, and h̃ of each step.
    """
    generator = np.random.default_rng(seed)
    w = generator.standard_normal(dimension)
    # Begins at the norm that SGD without momentum would have; relaxation does the rest.
    w *= (lr / (2 * weight_decay * (1 - momentum))) ** 0.25 / np.linalg.norm(w)
    v = np.zeros(dimension)
    norms, angles, h = np.empty(steps), np.empty(steps), np.empty(steps)
    for t in range(steps):
        noise = generator.standard_normal(dimension) / math.sqrt(dimension)
        norm = np.linalg.norm(w)
        noise -= w * (w @ noise) / norm**2
        g = noise / norm
        h[t] = (g @ g + 2 * momentum * (v @ g)) * norm**2
        v = momentum * v + g + weight_decay * w
        new = w - lr * v
        cosine = (w @ new) / (norm * np.linalg.norm(new))
        angles[t] = math.sqrt(max(2 - 2 * cosine, 0))
        norms[t] = norm
        w = new
    return norms, angles, h


@pytest.mark.parametrize(
    ('lr', 'weight_decay', 'momentum'),
    [(0.5, 1e-3, 0.0), (0.1, 5e-3, 0.0), (0.05, 4e-3, 0.9), (0.1, 2e-3, 0.5)],
)
def test_a_random_walk_comes_to_the_equilibrium(lr, weight_decay, momentum):
    settled = int(5 / theory.relaxation_rate(lr, weight_decay, momentum))
    norms, angles, h = random_walk(lr, weight_decay, momentum, settled + 8000)
    measured = math.sqrt(np.mean(angles[settled:] ** 2))
    expected = theory.angular_update(lr, weight_decay, momentum)
    assert measured == pytest.approx(expected, rel=0.01)
    expected = theory.equilibrium_norm(lr, weight_decay, h[settled:].mean(), momentum)
    assert norms[settled:].mean() == pytest.approx(expected, rel=0.01)
