"""Angular updates of known recipes."""

from dataclasses import replace

import numpy as np
import pytest
from schedules import config_by_iteration

from smd_mmdet.plan import plan
from smd_mmdet.recipes import in_context, known_recipes, peak_and_total

# What the recipes' papers and configs say: lr, weight decay, and the noise of the
# momentum, 1/(1+α) under SGD and (1−β₁)/(1+β₁) under AdamW.
SETTINGS = {
    'Mask R-CNN 1x': (0.02, 1e-4, 1 / 1.9),
    'SSD300': (0.002, 5e-4, 1 / 1.9),
    'YOLOX-s': (0.01, 5e-4, (1 + 1.8 - 2 * 0.9**3) / 1.9),
    'RTMDet-s': (0.004, 0.05, 0.1 / 1.9),
    'DETR': (1e-4, 1e-4, 0.1 / 1.9),
}


@pytest.mark.parametrize('title', SETTINGS)
def test_recipes_turn_as_their_settings_say(title):
    lr, decay, noise = SETTINGS[title]
    recipe = next(r for r in known_recipes() if r.title == title)
    assert recipe.angular_update == pytest.approx(np.sqrt(2 * lr * decay * noise))


def test_a_sum_over_steps_is_one_by_hand():
    recipe = next(r for r in known_recipes() if r.title == 'Mask R-CNN 1x')
    epoch, angle = 7330, np.sqrt(2 * 0.02 * 1e-4 / 1.9)
    # Eight epochs, three at a tenth of the rate and one at a hundredth; less the
    # warm-up's first 500 iterations, whose mean √η is 2/3 of the highest, about.
    expected = angle * (8 + 3 * 0.1**0.5 + 0.1) * epoch - angle * 500 / 3
    assert recipe.total == pytest.approx(expected, rel=1e-3)
    assert recipe.iterations == 12 * epoch and recipe.images == 16


def test_the_package_has_what_the_study_reads():
    pytest.importorskip('mmdet', reason='mmdet is missing')
    from studies.recipes import DETECTION, read_recipe

    kept = {recipe.title: recipe for recipe in known_recipes()}
    assert set(DETECTION) < set(kept)
    for title in ('Mask R-CNN 1x', 'SSD300', 'Sparse R-CNN'):
        found = read_recipe(title, DETECTION[title], True)
        # NumPy 1 and 2 add up in another order.
        assert found.total == pytest.approx(kept[title].total, rel=1e-12)
        assert replace(found, total=kept[title].total) == kept[title]


def test_an_angle_that_is_far_from_all_is_said_to_be():
    known = [recipe for recipe in known_recipes() if recipe.detection]
    most = max(recipe.angular_update for recipe in known)
    least = min(recipe.angular_update for recipe in known)
    assert in_context(1.99 * most).outside is None
    assert 'times the largest of known' in in_context(2.01 * most).outside
    assert in_context(least / 1.99).outside is None
    assert 'of the smallest of known' in in_context(least / 2.01).outside
    # The same for the sum.
    total = max(recipe.total for recipe in known)
    assert in_context(1e-3, 1.99 * total).outside is None
    assert 'the sum of Δ*' in in_context(1e-3, 2.01 * total).outside


def test_the_nearest_are_told_by_their_ratio():
    found = in_context(1.5e-3, count=30)
    away = [abs(np.log(r.angular_update / 1.5e-3)) for r in found.nearest]
    assert away == sorted(away) and len(away) == len(known_recipes())
    with pytest.raises(ValueError, match='angular_update'):
        in_context(0.0)


def test_a_plan_sets_its_angle_beside_them():
    config = config_by_iteration([], 1000)
    found = plan(config)
    context = found['context']
    angle = np.sqrt(2 * 0.05 * 5e-3 / 1.9)
    assert context['angular_update'] == pytest.approx(angle)
    assert context['total'] == pytest.approx(1000 * angle)
    # 1.6e-2 rad, 3.5 times RTMDet's.
    assert context['outside'] in found['warnings']
    config.optim_wrapper.optimizer.weight_decay = 1e-4
    found = plan(config)
    assert found['context']['outside'] is None
    assert any('of known recipes' in line for line in found['notes'])


def test_an_angle_that_differs_by_layer_has_no_sum():
    assert np.isnan(peak_and_total([1e-3], 1e-4, 0.9, 'adam')).all()
