"""The comparison early against late, on walks and scores whose truth is known."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pages import rows
from runs import STEP, write_run, write_scalars
from simulation import Walk

from smd_mmdet import theory
from smd_mmdet.checks import check
from smd_mmdet.records import read_records
from studies.fall import page
from studies.fall.changes import changes, fall_claim, leads, read_losses
from studies.fall.experiments import EXPERIMENTS
from studies.reproduction.results import Results, read_results

# The rates of the walks: the second stage begins at 961 and ends at 1,500. Its
# relaxation time (1−α)/(4λη) is 0.2/(4·2e-3·0.005) = 5,000 iterations, too long by far;
# with this decay it is 125.
DECAY = 0.08
FIRST, LAST, FOLD = 961, 1500, 125
SEEDS = 3
PAIR = [replace(experiment, seeds=SEEDS) for experiment in EXPERIMENTS[:2]]
# What accuracy loses within the stage, points by seed.
LOSSES = {'plain': (2.0, 3.0, 4.0), 'rescaled': (0.5, -0.5, 0.3)}


def scores(title, seed):
    """A validation every 40 iterations; the score of the last ones is lower."""
    lines = []
    for i in range(920, LAST + 1, 40):
        late = i > LAST - FOLD
        value = 70.0 - LOSSES[title][seed] * late + 10 * (i >= FIRST)
        loss = {'loss': 1.0 + late * 0.25, 'iter': i, 'step': i}
        lines += [loss, {'accuracy/top1': value, 'step': i}]
    return lines


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp('fall')
    for experiment in PAIR:
        for seed in range(SEEDS):
            folder = root / f'{experiment.name}-seed{seed}'
            rescale = experiment.title == 'rescaled'
            write_run(folder, seed=seed, norm=None, rescale=rescale, weight_decay=DECAY)
            write_scalars(folder, 'log', scores(experiment.title, seed))
            (folder / 'finished').touch()
    return root


def test_the_change_is_late_minus_early_of_each_seed(runs):
    plain, rescaled = (changes(each) for each in read_results(PAIR, runs))
    for found, title in ((plain, 'plain'), (rescaled, 'rescaled')):
        score, loss = found
        assert score.early == pytest.approx([80.0] * SEEDS)
        assert score.late == pytest.approx(80 - np.array(LOSSES[title]))
        assert loss.metric == 'loss' and loss.mean == pytest.approx(0.25)
    # −3 ± 4.3027·1/√3, the 97.5 % quantile of t with two degrees of freedom.
    reach = 4.3027 / np.sqrt(3)
    assert plain[0].interval == pytest.approx((-3 - reach, -3 + reach), rel=1e-4)
    assert [plain[0].verdict, rescaled[0].verdict] == ['falls', 'cannot be told']


def test_the_lead_is_the_difference_of_the_same_seeds(runs):
    plain, rescaled = read_results(PAIR, runs)
    # Seeds in another order, and one that only one of the two has.
    rescaled = Results(rescaled.experiment, rescaled.runs[:0:-1])
    score, loss = leads([*changes(plain), *changes(rescaled)])
    assert score.title == 'plain − rescaled' and score.seeds == (1, 2)
    lost = np.subtract(LOSSES['rescaled'], LOSSES['plain'])[1:]
    assert score.early == pytest.approx((0, 0))
    assert score.late == pytest.approx(lost)
    assert score.mean == pytest.approx(lost.mean())
    assert loss.mean == pytest.approx(0)
    assert leads(changes(plain)) == []


def test_the_angles_are_those_of_the_walks(runs):
    early, late = slice(FIRST - 1, FIRST - 1 + FOLD), slice(LAST - FOLD, LAST)
    for experiment, results in zip(PAIR, read_results(PAIR, runs), strict=True):
        rescale = experiment.title == 'rescaled'
        settings = dict(norm=None, rescale=rescale, weight_decay=DECAY)
        ratios = []
        for seed in range(SEEDS):
            walk = Walk(**(STEP | settings), layers=3, seed=seed)
            angle = walk.series['angular_update']
            target = theory.angular_update(0.005, DECAY, STEP['momentum'])
            ratios += [
                [
                    np.sqrt((angle[span, layer] ** 2).mean()) / target
                    for layer in range(3)
                ]
                for span in (early, late)
            ]
        expected = np.median(ratios[::2]), np.median(ratios[1::2])
        # The spans end within a window of 20 iterations.
        assert changes(results)[0].angles == pytest.approx(expected, rel=0.06)
        assert (expected[0] < 0.6) == (not rescale)
        assert expected[1] == pytest.approx(1, abs=0.1)


def test_the_page_shows_the_fall_and_says_so(runs, tmp_path):
    out = tmp_path / 'fall.md'
    page.write_page(runs, out, PAIR)
    text = out.read_text()
    assert 'seen in 1 of 1 scores' in text and 'changes by -3.0 points' in text
    table = {
        (r['run'], r['quantity']): r
        for r in rows(text, 'Early and late in the second stage')
    }
    assert table['plain', 'top-1 accuracy']['change'] == '-3.0'
    assert table['plain', 'top-1 accuracy']['verdict'] == 'falls'
    assert table['rescaled', 'top-1 accuracy']['verdict'] == 'cannot be told'
    # Each layer's stages, judged again.
    found = Counter(
        stage.verdict_of('transient_law')
        for experiment in PAIR
        for seed in range(SEEDS)
        for layer in check(read_records(runs / f'{experiment.name}-seed{seed}')).layers
        for stage in layer.stages
        if stage.stage >= 0
    )
    (row,) = rows(text, 'Conclusions by model')
    verdicts = ('holds', 'fails', 'undecided', 'not applicable')
    assert row['Transient law'] == ' / '.join(str(found[v]) for v in verdicts)
    assert found['holds'] > 0 and found.total() == 2 * SEEDS * 2 * 3
    # −1.5, −3.5 and −3.7 points.
    lost = np.subtract(LOSSES['rescaled'], LOSSES['plain'])
    lead = table['plain − rescaled', 'top-1 accuracy']
    assert lead['change'] == f'{lost.mean():+.1f}'
    reach = 4.3027 * lost.std(ddof=1) / np.sqrt(3)
    assert lead['95 %'] == f'{lost.mean() - reach:+.1f} to {lost.mean() + reach:+.1f}'
    assert f'from +0.0 to {lost.mean():+.1f} points' in text
    (image,) = re.findall(r'\]\((images/\S+)\)', text)
    assert (out.parent / image).read_bytes().startswith(b'\x89PNG')


def test_a_score_that_stays_is_not_called_a_fall(runs):
    _, rescaled = read_results(PAIR, runs)
    found = [replace(change, title='plain') for change in changes(rescaled)]
    assert 'did not show' in fall_claim(found)
    one = [replace(c, seeds=(0,), early=c.early[:1], late=c.late[:1]) for c in found]
    assert 'one seed: not decided' in fall_claim(one)


def test_without_runs_the_page_says_that_nothing_is_done(tmp_path):
    out = tmp_path / 'fall.md'
    page.write_page(tmp_path / 'none', out, PAIR)
    assert f'0 of {2 * SEEDS} runs are done.' in out.read_text()


def test_what_was_logged_last_counts_and_a_cut_line_does_not(tmp_path):
    write_scalars(tmp_path, '1', [{'loss': 3.0, 'iter': 20}, {'loss': 2.0, 'iter': 40}])
    write_scalars(tmp_path, '2', [{'loss': 1.5, 'iter': 40}, {'lr': 1}], broken=True)
    assert read_losses(tmp_path) == {20: 3.0, 40: 1.5}
