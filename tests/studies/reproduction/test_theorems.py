"""What the theorems say of random walks, against closed forms; its part of the page."""

from dataclasses import replace

import numpy as np
import pytest
from pages import rows

from studies.reproduction import theorems, walks
from studies.reproduction.theorem_section import theorem_section

REST = 'At rest, and the way there (Theorems 1, 2, 3)'


@pytest.fixture(scope='module')
def equilibria():
    return theorems.equilibria(number=60)


@pytest.fixture(scope='module')
def drops():
    return theorems.drops(number=30, folds=5.0)


def test_the_table_of_equilibria_agrees_with_closed_forms(equilibria):
    found = {e.name: e for e in equilibria}
    assert found.keys() == theorems.CASES.keys()
    for name, each in found.items():
        assert each.norm == pytest.approx(1, abs=0.005)
        assert each.angle == pytest.approx(1, abs=0.005)
        # theory.md: the mean of ‖w‖⁴ relaxes at 4λη/(1−α), within 14 %.
        assert each.rate == pytest.approx(1, abs=0.14)
        assert each.course[0][1] == pytest.approx(each.course[0][2], rel=5e-3)
        assert all(was <= 1.01 * limit for _, was, limit in each.course)
        assert each.off <= each.allowed
        if 'momentum' in name:
            continue
        spread = theorems.CASES[name].get('spread', 0.5)
        # Of an even distribution on 1 ± s.
        variance, least = spread**2 / 3, 1 - spread
        assert each.noise == pytest.approx(variance, rel=0.02)
        assert each.allowed == pytest.approx((variance / least) ** (1 / 3), rel=0.02)
        # Linearized recurrence with noise: λη·V/(2L²) of w*⁴; some of the way remains.
        assert each.spread == pytest.approx(1e-3 * variance / 2, rel=0.5)
        assert each.exceeded == 0
    correlated = found['momentum 0.9, gradients correlated']
    assert correlated.mean > 1.4


def test_the_table_of_drops_agrees_with_closed_forms(drops):
    for drop in drops:
        if drop.rescaled:
            assert drop.first == pytest.approx(1, abs=0.03)
            assert drop.needed == 0
            continue
        assert drop.first == pytest.approx(10**-0.5, rel=0.03)
        # ‖w‖⁴ = w*⁴·(1 + 9/e) after one relaxation time.
        assert drop.after_fold == pytest.approx((1 + 9 / np.e) ** -0.5, rel=0.03)
        # ln(9/0.1) relaxation times of 2,500 iterations.
        assert drop.needed == pytest.approx(2500 * np.log(90), rel=0.05)
        assert drop.corollary == np.ceil(np.log(10) * 5000)
        assert drop.decay_alone == int(np.log(10 / 1.1) * 2500)


def test_the_page_says_what_the_walks_did(equilibria, drops):
    text = '\n\n'.join(theorem_section(equilibria, drops, 60))
    for row, each in zip(rows(text, REST), equilibria, strict=True):
        assert row['walk'] == each.name
        assert float(row['‖w‖/w*']) == pytest.approx(each.norm, abs=6e-5)
    after = rows(text, 'The rate divided by ten (Corollary 3.1 and rescaling)')
    assert [row['weights'] for row in after] == ['plain', 'rescaled'] * 2
    assert 'The bound of Theorem 1 is never exceeded' in text
    worse = [replace(equilibria[0], exceeded=3), *equilibria[1:]]
    text = '\n\n'.join(theorem_section(worse, drops, 60))
    assert 'The bound of Theorem 1 is exceeded in 3 iterations' in text


def test_a_walk_that_outgrows_its_bound_is_told(monkeypatch):
    class Grown(walks.Walks):
        @property
        def distance_sq(self):
            return super().distance_sq + np.linspace(0, 100, len(self.lr))

    monkeypatch.setattr(theorems, 'Walks', Grown)
    settings = theorems.CASES['SGD, from 2 w*']
    assert theorems._equilibrium('grown', settings, 10, 6.0).exceeded > 0
