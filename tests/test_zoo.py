"""The laws of the zoo of optimizers, each against weights that really move."""

import numpy as np
import pytest
import torch
from zoo_walks import adam, lamb, lion, sgd, walk

from smd_mmdet import theory
from smd_mmdet.forecast import forecast
from smd_mmdet.theory import THEORIES

MOMENTUM = 0.9
# Of each law: the optimizer, a rate and a decay, and the norm to begin with.
LAWS = {
    'sgd': (sgd(), 0.05, 2e-3),
    'nesterov': (sgd(nesterov=True), 0.05, 2e-3),
    # β₂ = 0.99: v̂ must know the norm of the moment, here as in longer real runs.
    'adamw': (adam(beta2=0.99), 1e-3, 0.2),
    'nadamw': (adam(beta2=0.99, nesterov=True), 1e-3, 0.2),
}


def mean_square(values):
    return float(np.mean(values**2))


def drive_of(law, course, part=slice(None)):
    """What drives the norm, from what really happened."""
    if THEORIES[law].drive == 'update_sq':
        return course.update_sq[part].mean()
    share = MOMENTUM**2 if law == 'nesterov' else MOMENTUM
    return (course.unit_grad_sq + 2 * share * course.along)[part].mean()


@pytest.mark.parametrize(
    ('step', 'make'),
    [
        (sgd(), lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9)),
        (
            sgd(nesterov=True),
            lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True),
        ),
        (
            sgd(dampening=0.4),
            lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, dampening=0.4),
        ),
        (adam(eps=1e-8), torch.optim.AdamW),
        (adam(eps=1e-8, decoupled=False), torch.optim.Adam),
        (
            adam(eps=1e-8, nesterov=True),
            # So large a decay makes its β₁ constant.
            lambda p: torch.optim.NAdam(
                p, momentum_decay=1e6, decoupled_weight_decay=True
            ),
        ),
    ],
)
def test_the_walks_step_as_torch_does(step, make):
    generator = np.random.default_rng(0)
    w = generator.standard_normal(7)
    weight = torch.nn.Parameter(torch.tensor(w))
    optimizer = make([weight])
    optimizer.param_groups[0].update(lr=0.01, weight_decay=0.1)
    state = {}
    for _ in range(20):
        g = generator.standard_normal(7)
        w = step(g, w, 0.01, 0.1, state)
        weight.grad = torch.tensor(g)
        optimizer.step()
        # Torch keeps the product of NAdam's β₁ in float32.
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-6)


@pytest.mark.parametrize('correlation', [0.0, 0.7])
@pytest.mark.parametrize('law', LAWS)
def test_equilibrium_within_one_percent(law, correlation):
    step, lr, decay = LAWS[law]
    if correlation and THEORIES[law].drive == 'update_sq':
        pytest.skip('the law of adaptive optimizers is for gradients without memory')
    norm = 1.0 if THEORIES[law].exponent == 4 else 0.41
    course = walk(
        step, np.full(9000, lr), decay, norm, correlation=correlation, layers=16
    )
    known, late = THEORIES[law], slice(4000, None)
    drive = drive_of(law, course, late)
    grad = course.unit_grad_sq[late].mean()
    angle_sq = known.angular_update_sq(lr, decay, MOMENTUM, grad, drive)
    if law != 'sgd':  # its Δ* holds for every correlation
        assert (
            correlation == 0
            or abs(angle_sq / known.angular_update_sq(lr, decay, MOMENTUM) - 1) > 0.1
        )
    measured = mean_square(course.angle[late])
    assert np.sqrt(measured / angle_sq) == pytest.approx(1, abs=0.01)
    norm = np.mean(course.norm[late] ** known.exponent) ** (1 / known.exponent)
    expected = known.equilibrium_norm(lr, decay, drive, MOMENTUM)
    assert norm / expected == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize('law', LAWS)
def test_the_way_to_equilibrium_within_two_percent(law):
    """From three times w* under a rate that falls by ten and then along a cosine."""
    step, lr, decay = LAWS[law]
    cosine = 0.5 * (1 + np.cos(np.linspace(0, 3, 1500)))
    rates = lr * np.concatenate([np.full(1500, 1.0), np.full(1500, 0.1), cosine])
    norm = 1.6 if THEORIES[law].exponent == 4 else 1.2
    course = walk(step, rates, decay, norm, layers=40)
    # The first updates of Adam are signs.
    drive = drive_of(law, course, slice(150, None))
    ahead = forecast(rates, decay, MOMENTUM, norm=norm, unit_grad_sq=drive, law=law)
    np.testing.assert_allclose(ahead.weight_norm, course.norm.mean(1), rtol=0.02)
    blocks = (30, 150)
    angle = np.sqrt((course.angle**2).mean(1).reshape(blocks).mean(1))
    expected = np.sqrt((ahead.angular_update**2).reshape(blocks).mean(1))
    first = 1 if THEORIES[law].exponent == 2 else 0
    np.testing.assert_allclose(expected[first:], angle[first:], rtol=0.02)


@pytest.mark.parametrize(('max_norm', 'power'), [(9.0, 0.0), (0.1, 2.0)])
def test_clipping_changes_the_way_and_the_rescaling(max_norm, power):
    """Never, and always: at a drop by k the norm has to follow by k^(1/(4−p))."""
    lr, decay, drop = 0.05, 2e-3, 10
    rates = np.repeat([lr, lr / drop], [5000, 400])
    settings = dict(layers=24, max_norm=max_norm)
    before = walk(sgd(), rates[:5000], decay, 1.0, **settings)
    assert theory.clipping_power(before.total_norm[2500:], max_norm) == power
    known = THEORIES['sgd']
    factor = float(theory.rescale_factor(drop, known.norm_power(power)))

    def rescale(t, w, state):
        if t == 5000 and power == 0:  # a clipped gradient does not grow
            state['v'] = state['v'] / factor
        return w * factor if t == 5000 else w

    course = walk(sgd(), rates, decay, 1.0, rescale=rescale, **settings)
    angle = np.sqrt(mean_square(course.angle[5050:]))
    expected = theory.angular_update(lr / drop, decay, MOMENTUM)
    assert angle == pytest.approx(expected, rel=0.02)

    norm = before.norm[4000:].mean()
    plain = walk(sgd(), np.full(1500, lr / drop), decay, norm, **settings)
    ahead = forecast(
        np.full(1500, lr / drop),
        decay,
        MOMENTUM,
        norm=norm,
        unit_grad_sq=drive_of('sgd', before, slice(4000, None)),
        clipping_power=power,
    )
    np.testing.assert_allclose(ahead.weight_norm, plain.norm.mean(1), rtol=0.02)


@pytest.mark.parametrize('max_norm', [1.3, 1.8, 2.3])
def test_where_some_steps_are_clipped_the_power_lies_between(max_norm):
    """Held against what the applied gradient does when all norms are changed."""
    lr, decay = 0.05, 2e-3
    settings = dict(layers=24, noise=1.0, max_norm=max_norm)
    course = walk(sgd(), np.full(6000, lr), decay, 3.0, **settings)
    late = slice(3000, None)
    angle = np.sqrt(mean_square(course.angle[late]))
    assert angle == pytest.approx(theory.angular_update(lr, decay, 0.9), rel=0.01)

    still, norm = np.full(4000, 1e-12), course.norm[late].mean()
    here = walk(sgd(), still, 0.0, norm, **settings)
    below, above = (
        walk(sgd(), still, 0.0, change * norm, **settings).unit_grad_sq.mean()
        for change in (0.95, 1.05)
    )
    power = np.log(above / below) / np.log(1.05 / 0.95)
    assert 0.2 < power < 1.8
    found = theory.clipping_power(here.total_norm[:, 0], max_norm)
    assert found == pytest.approx(power, rel=0.05)


def test_optimizers_without_a_law_of_the_norm():
    size, beta, lr = 64, 0.9, 1e-3
    turned = walk(lamb(), np.full(2500, lr), 0.1, 1.0).angle[500:]
    assert np.sqrt(mean_square(turned)) == pytest.approx(lr, rel=0.01)
    assert float(THEORIES['lamb'].angular_update(lr, 0.1, beta)) == lr

    decay = 0.01
    course = walk(adam(decoupled=False), np.full(25_000, lr), decay, 0.75, size=size)
    late = slice(15_000, None)
    grad = np.sqrt(course.unit_grad_sq[late].mean())
    norm = float(theory.adam_equilibrium_norm(lr, decay, grad, size))
    assert course.norm[late].mean() == pytest.approx(norm, rel=0.01)
    angle = float(theory.adam_angular_update(lr, beta, norm, size))
    measured = np.sqrt(mean_square(course.angle[late]))
    assert measured == pytest.approx(angle, rel=0.01)
    assert np.isnan(THEORIES['adam'].angular_update(lr, decay, beta))


def test_lion_is_indicative():
    lr, decay = 1e-3, 0.1
    noise = (1 - 0.9) ** 2 + 0.81 * (1 - 0.99) / (1 + 0.99)
    norm = np.sqrt(lr * 64 / (np.pi * decay * noise))
    course = walk(lion(), np.full(8000, lr), decay, norm)
    angle = np.sqrt(mean_square(course.angle[4000:]))
    assert angle == pytest.approx(
        float(theory.lion_angular_update(lr, decay, 0.9, 0.99)), rel=0.03
    )
    assert THEORIES['lion'].indicative
    assert float(THEORIES['lion'].angular_update(lr, decay, 0.9)) == pytest.approx(
        float(theory.lion_angular_update(lr, decay, 0.9, 0.99)), rel=1e-12
    )


@pytest.mark.parametrize('law', LAWS)
def test_weight_decay_for_inverts_the_angle(law):
    known = THEORIES[law]
    decay = known.weight_decay_for(2e-3, 0.01, 0.9)
    assert known.angular_update(0.01, decay, 0.9) == pytest.approx(2e-3, rel=1e-12)


def test_the_law_of_sgd_is_the_papers():
    lr, decay, h = 0.1, 5e-3, 2.0
    known = THEORIES['sgd']
    for momentum in (0.0, 0.9):
        settings = lr, decay, h, momentum
        np.testing.assert_allclose(
            known.equilibrium_norm(*settings),
            theory.equilibrium_norm(*settings),
            rtol=1e-14,
        )
        # The rates of the paper are of first order.
        tiny = lr, decay * 1e-6, momentum
        assert known.rate(*tiny) == pytest.approx(
            float(theory.norm4_rate(*tiny)), rel=1e-6
        )


@pytest.mark.parametrize('law', LAWS)
def test_decay_alone_shrinks_as_the_optimizer_does(law):
    """Without gradients the norm falls by a per iteration, at any strength of decay."""
    step, lr, _ = LAWS[law]
    if THEORIES[law].exponent == 2:
        lr, step = 0.01, adam(nesterov=law == 'nadamw')
    for decay in (1e-3, 0.03):
        course = walk(step, np.full(400, lr), decay, 1.0, layers=1, unit_grad=0.0)
        shrunk = course.norm[-1, 0] / course.norm[-2, 0]
        expected = float(THEORIES[law].shrinkage(lr, decay, MOMENTUM))
        assert 1 - shrunk == pytest.approx(expected, rel=1e-6)
        rate = float(THEORIES[law].rate(lr, decay, MOMENTUM))
        assert rate == pytest.approx(-THEORIES[law].exponent * np.log(shrunk), rel=1e-6)


def test_a_law_that_is_not_known_is_refused():
    settings = dict(norm=1.0, unit_grad_sq=1.0)
    for law in ('none', 'lamb', 'adam', ['sgd']):
        with pytest.raises(ValueError, match='law must be one of sgd, nesterov'):
            forecast([0.1], 0.1, law=law, **settings)
    for power in (-0.1, 2.1, np.nan):
        with pytest.raises(ValueError, match='clipping_power'):
            forecast([0.1], 0.1, clipping_power=power, **settings)
