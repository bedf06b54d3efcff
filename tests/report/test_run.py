"""What is shown of a run, against the theory."""

import numpy as np
import pytest

from smd_mmdet import theory


def test_target_norm_is_that_of_the_mean_over_200_iterations(run):
    layer = run.layers[0]
    middle = len(layer.iter) // 3
    around = slice(middle - 5, middle + 5)
    unit = np.average(layer.unit[around], weights=layer.count[around])
    expected = theory.equilibrium_norm(0.05, 2e-3, unit, 0.8)
    assert layer.norm_eq[middle] == pytest.approx(float(expected), rel=1e-12)
    assert np.isnan(layer.norm_eq[layer.stage < 0]).all()


def test_expected_decay_is_followed_and_the_guarantee_is_slower(run):
    """At constant L the mean law is what the walk does."""
    for layer in run.layers:
        first = np.flatnonzero(layer.stage == 0)
        early = first[layer.distance[first] > 0.3]
        assert len(early) > 3
        ratio = layer.distance[early] / layer.expected[early]
        assert np.abs(ratio - 1).max() < 0.25
        assert (layer.guaranteed[first[1:]] > layer.expected[first[1:]]).all()
