"""The forecast against walks that really take every step."""

import numpy as np
import pytest
from simulation import Walk

from smd_mmdet import theory
from smd_mmdet.forecast import forecast

DECAY = 3e-3
STEP = np.repeat([0.05, 0.005], [1000, 1500])
SCHEDULES = {
    'plain': dict(lr=np.full(1500, 0.05), momentum=0.9),
    'plain SGD': dict(lr=np.full(1000, 0.3), momentum=0.0),
    'from far above': dict(lr=np.full(1500, 0.05), momentum=0.9, norm=6.0),
    'warm-up': dict(
        lr=np.concatenate([np.linspace(1e-3, 0.05, 100), np.full(1000, 0.05)]),
        momentum=0.9,
    ),
    'step': dict(lr=STEP, momentum=0.9),
    'step, rescaled': dict(lr=STEP, momentum=0.9, rescale=True),
    'long, step after the beginning': dict(
        lr=np.repeat([0.05, 0.005], [2500, 1000]), momentum=0.9
    ),
    'cosine': dict(lr=0.025 * (1 + np.cos(np.linspace(0, 3, 2500))), momentum=0.9),
}


def _root_mean_square(values: np.ndarray, width: int = 40) -> np.ndarray:
    kernel = np.ones(width) / width
    return np.sqrt(np.convolve(values**2, kernel, 'valid'))


@pytest.mark.parametrize('name', SCHEDULES)
def test_norm_and_angle_within_two_percent_of_a_walk(name):
    settings = {'norm': 2.0, **SCHEDULES[name]}
    rescale = settings.get('rescale', False)
    walk = Walk(**settings, weight_decay=DECAY, layers=60, size=64, noise=0.05)
    ahead = forecast(
        settings['lr'],
        DECAY,
        settings['momentum'],
        norm=settings['norm'],
        unit_grad_sq=1.0,
        rescale=rescale,
    )
    norm = walk.series['weight_norm'].mean(1)
    angle = np.sqrt((walk.series['angular_update'] ** 2).mean(1))
    np.testing.assert_allclose(ahead.weight_norm, norm, rtol=0.02)
    np.testing.assert_allclose(
        _root_mean_square(ahead.angular_update), _root_mean_square(angle), rtol=0.02
    )


def test_comes_to_rest_at_the_equilibrium_of_theory():
    ahead = forecast(np.full(20_000, 0.05), DECAY, 0.9, norm=9.0, unit_grad_sq=0.3)
    norm = theory.equilibrium_norm(0.05, DECAY, 0.3, 0.9)
    assert ahead.weight_norm[-1] == pytest.approx(norm, rel=1e-6)
    assert ahead.weight_norm_eq[-1] == pytest.approx(norm, rel=1e-12)
    assert ahead.angular_update[-1] == pytest.approx(ahead.angular_update_eq[-1])


def test_after_a_cut_by_ten_the_angle_is_a_third_and_rescaled_it_is_whole():
    lr = np.repeat([0.02, 0.002], [300_000, 22_000])
    plain = forecast(lr, 1e-4, 0.9, norm=5.0, unit_grad_sq=0.05)
    snapped = forecast(lr, 1e-4, 0.9, norm=5.0, unit_grad_sq=0.05, rescale=True)
    ratio = plain.angular_update / plain.angular_update_eq
    assert ratio[300_000] == pytest.approx(10**-0.5, rel=1e-3)
    assert ratio[-1] == pytest.approx(0.342, abs=0.001)
    ratio = snapped.angular_update / snapped.angular_update_eq
    np.testing.assert_allclose(ratio[300_000:], 1, rtol=1e-3)


def test_only_the_chosen_changes_are_followed_up_or_down():
    lr = np.repeat([0.05, 0.01, 0.002, 0.02], 700)
    chosen = np.zeros(2800, dtype=bool)
    chosen[[1400, 2100]] = True
    settings = dict(norm=2.0, unit_grad_sq=1.0)
    norm = forecast(lr, DECAY, 0.9, **settings, rescale=chosen).weight_norm
    plain = forecast(lr, DECAY, 0.9, **settings).weight_norm
    np.testing.assert_array_equal(norm[:1400], plain[:1400])
    assert norm[1400] / plain[1400] == pytest.approx(5**-0.25)
    # Between two iterations without a jump the norm moves by a ten-thousandth or so.
    assert norm[2100] / norm[2099] == pytest.approx(10**0.25, rel=1e-3)


def test_layers_are_forecast_together_as_one_by_one():
    lr = np.repeat([0.05, 0.005], [2500, 500])
    norms, units = np.array([1.0, 4.0, 2.0]), np.array([0.1, 1.0, 3.0])
    together = forecast(lr, DECAY, 0.9, norm=norms, unit_grad_sq=units)
    for i, (norm, unit) in enumerate(zip(norms, units, strict=True)):
        alone = forecast(lr, DECAY, 0.9, norm=norm, unit_grad_sq=unit)
        for name in ('weight_norm', 'angular_update', 'weight_norm_eq'):
            one = getattr(together, name)[:, i]
            np.testing.assert_allclose(one, getattr(alone, name), rtol=1e-12)


def test_chosen_iterations_are_those_of_the_whole():
    lr = np.repeat([0.05, 0.005], [2500, 500])
    whole = forecast(lr, DECAY, 0.9, norm=2.0, unit_grad_sq=1.0)
    at = [0, 1999, 2000, 2500, 2999]
    some = forecast(lr, DECAY, 0.9, norm=2.0, unit_grad_sq=1.0, at=at)
    for name in ('weight_norm', 'angular_update', 'weight_norm_eq'):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[at])


def test_strong_decay_over_a_long_run_does_not_underflow():
    ahead = forecast(np.full(100_000, 0.1), 0.05, 0.9, norm=1.0, unit_grad_sq=1.0)
    assert np.isfinite(ahead.weight_norm).all() and (ahead.weight_norm > 0).all()


def test_without_decay_the_norm_grows_and_has_no_equilibrium():
    ahead = forecast(np.full(5000, 0.1), 0.0, norm=1.0, unit_grad_sq=1.0)
    assert (np.diff(ahead.weight_norm) > 0).all()
    assert np.isinf(ahead.weight_norm_eq).all()
    assert (ahead.angular_update_eq == 0).all()


def test_without_decay_and_gradients_there_is_no_equilibrium_either():
    ahead = forecast([0.0, 0.1], 0.0, norm=1.0, unit_grad_sq=0.0)
    assert ahead.weight_norm_eq.tolist() == [0.0, np.inf]
    assert theory.equilibrium_norm(0.1, 0.0, 0.0) == np.inf


def test_a_rate_of_zero_moves_nothing():
    ahead = forecast([0.1, 0.0, 0.0], 1e-3, norm=1.0, unit_grad_sq=1.0)
    assert ahead.angular_update[1] == ahead.angular_update[2] == 0
    assert ahead.weight_norm[1] == ahead.weight_norm[2]


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('lr', dict(lr=[])),
        ('lr', dict(lr=0.1)),
        ('lr', dict(lr=[0.1, -0.1])),
        ('lr', dict(lr=[0.1, np.nan])),
        ('weight_decay', dict(weight_decay=-1.0)),
        ('weight_decay', dict(weight_decay=[1e-4] * 3)),
        ('momentum', dict(momentum=1.0)),
        ('norm', dict(norm=0.0)),
        ('unit_grad_sq', dict(unit_grad_sq=-1.0)),
        ('unit_grad_sq', dict(norm=[1.0, 2.0], unit_grad_sq=[1.0] * 3)),
        ('weight_decay', dict(weight_decay=20.0)),
        ('at', dict(at=[5])),
        ('rescale', dict(rescale=[True])),
        ('rescale', dict(rescale=[1, 0])),
    ],
)
def test_a_bad_argument_is_named(name, changes):
    good = dict(lr=[0.1, 0.1], weight_decay=1e-4, norm=1.0, unit_grad_sq=1.0)
    with pytest.raises(ValueError, match=name):
        forecast(**(good | changes))
