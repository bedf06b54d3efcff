"""The figures of odd runs and of plain ones."""

import numpy as np
import pytest
from runs import simulated, with_columns

from smd_mmdet.report.figures import FIGURES, draw
from smd_mmdet.report.page import render_page
from smd_mmdet.report.run import run_of


def test_all_figures_are_drawn(run):
    figures = draw(run)
    assert list(figures) == [
        name for name in FIGURES if name not in ('clipping', 'control')
    ]
    labels = [text.get_text() for text in figures['angular_update'].axes[0].texts]
    assert any(label.startswith('Δ* = ') for label in labels)
    assert figures['weight_norm'].axes[0].get_title(loc='left') == 'backbone.conv1'


def test_the_norm_that_a_run_begins_with_is_drawn():
    """Also where the weights are put elsewhere after a few of very many windows."""
    records = simulated(window=1)
    norm = records.table['weight_norm_mean'].to_numpy()
    early = np.where(records.table['iter'].to_numpy() <= 2, 30.0, norm)
    run = run_of(with_columns(records, weight_norm_mean=early), 'long')
    for axes in draw(run, names=['weight_norm'])['weight_norm'].axes:
        assert axes.get_ylim()[1] > 30.0


def test_named_layers_are_drawn(run):
    figures = draw(run, ['neck.conv'])
    assert [axes.get_title(loc='left') for axes in figures['distance'].axes] == [
        'neck.conv'
    ]
    with pytest.raises(ValueError, match="no layer 'nonsense'"):
        draw(run, ['nonsense'])


@pytest.mark.parametrize('known', ['adamw', 'none'])
def test_without_theory_figures_that_need_it_are_left_out(known):
    records = simulated(metadata={'theory': known})
    if known == 'none':
        nothing = np.full(len(records.table), np.nan)
        records = with_columns(
            records, angular_update_eq=nothing, weight_norm_eq=nothing
        )
    run = run_of(records, known)
    figures = draw(run)
    assert 'angular_update' in figures
    assert 'distance' not in figures
    assert ('equilibrium' in figures) == (known == 'adamw')
    assert 'data' in render_page(run)


def test_one_window_and_odd_names_are_enough():
    names = ['$x_{$', '<b>&amp;', 'a' * 300]
    records = simulated(names, window=30, lr=np.full(30, 0.05))
    run = run_of(records, 'odd')
    assert set(draw(run)) >= {'angular_update', 'cosine'}
    assert '&lt;b&gt;' not in render_page(run).split('id="data"')[0]


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('decay', [0.6, 2.4, 5.0])
def test_a_weight_decay_out_of_all_bounds_is_drawn(momentum, decay):
    lr = np.ones(60)
    records = simulated(lr=lr, weight_decay=decay, momentum=momentum, norm=1.0)
    run = run_of(records, 'large')
    assert 'cosine' in draw(run)
    assert np.isfinite(run.layers[0].norm_eq).any() == (decay < 2)
    assert 'data' in render_page(run)
