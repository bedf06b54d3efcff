"""What is shown of a run, against the theory."""

import numpy as np
import pytest
from runs import simulated, write_run

from smd_mmdet import theory
from smd_mmdet.records import read_records
from smd_mmdet.report.panels import series_of
from smd_mmdet.report.run import Motion, read_run, run_of


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


def test_under_adamw_the_norm_has_the_law_of_adamw():
    settings = dict(weight_decay=0.2, momentum=0.9, size=384, optimizer='adamw')
    lr = np.full(4000, 1e-3)
    records = simulated(lr=lr, norm=3.0, **settings)
    layer = run_of(records, 'adamw').layers[0]
    assert layer.unit_name.startswith('U')
    assert np.isnan(layer.guaranteed).all()  # it is derived for SGD
    # w*² = ηU(1+β₁)/(2λ(1−β₁)); ‖w‖² comes to it at 2λη.
    late = slice(20, None)  # the first updates are signs
    driven = records.table['update_sq_mean'].to_numpy().reshape(-1, 3)[late, 0].mean()
    norm_eq = np.sqrt(1e-3 * driven * 19 / 0.4)
    np.testing.assert_allclose(layer.norm_eq[late], norm_eq, rtol=0.06)
    left = np.exp(-2 * 0.2 * 1e-3 * (layer.iter - layer.iter[0]))
    np.testing.assert_allclose(layer.expected, layer.distance[0] * left, rtol=2e-3)
    measured = (layer.norm[late] / norm_eq) ** 2
    start = (layer.norm[20] / norm_eq) ** 2 - 1
    np.testing.assert_allclose(measured, 1 + start * left[late] / left[20], rtol=0.05)


def test_under_nesterov_the_angle_is_that_of_the_correlation_of_a_stage():
    records = simulated(
        lr=np.full(1500, 0.05), norm=3.3, optimizer='nesterov', correlation=0.7
    )
    for layer in run_of(records, 'nesterov').layers:
        assert np.ptp(layer.angle_eq) == 0
        late = layer.ratio[25:]
        assert np.sqrt((late**2).mean()) == pytest.approx(1, abs=0.04)
        white = np.sqrt(2e-4 * (1 + 1.6 - 2 * 0.512) / 1.8)
        assert abs(layer.angle_eq[0] / white - 1) > 0.05


@pytest.mark.parametrize('optimizer', ['sgd', 'nesterov', 'adamw'])
def test_what_is_shown_is_the_same_from_the_columns_that_are_read(tmp_path, optimizer):
    settings = dict(optimizer=optimizer, max_norm=1.0, correlation=0.3)
    write_run(tmp_path, metadata={'clipping': {'type': 'norm'}}, **settings)
    shown = read_run(tmp_path)
    for name, columns in read_records(tmp_path).by_layer():
        layer = Motion(name, columns, optimizer, {'type': 'norm'})
        series = {known: values for known, _, values in series_of(layer)}
        assert len(series) > 8
        for known, values in series.items():
            np.testing.assert_array_equal(getattr(shown.layer(name), known), values)
