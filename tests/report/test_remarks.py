"""What the page says of clipping, of correlated gradients, and of known recipes."""

import re

import numpy as np
import pytest
from runs import simulated, with_columns

from smd_mmdet.report.advice import advice, next_steps
from smd_mmdet.report.compare import compare
from smd_mmdet.report.figures import draw
from smd_mmdet.report.overview import overview
from smd_mmdet.report.page import render_page
from smd_mmdet.report.page_data import page_data
from smd_mmdet.report.remarks import clipped, far_outside, remarks
from smd_mmdet.report.run import run_of
from smd_mmdet.report.tables import render_report

BY_NORM = {'clipping': {'type': 'norm', 'max_norm': 0.25}}
# η, λ and α of the walks.
LR, DECAY, MOMENTUM = 0.05, 2e-3, 0.8


def walk(steps=3000, metadata=None, **changes):
    """A run at one rate, of nearly the same gradient at every step."""
    changes = dict(lr=np.full(steps, LR), noise=0.02, norm=None) | changes
    return run_of(simulated(metadata=BY_NORM | (metadata or {}), **changes), 'walk')


@pytest.fixture(scope='module')
def always():
    """Every step is clipped: ‖w‖ begins at thrice its equilibrium, and comes down."""
    return walk(norm=4.0, max_norm=0.15)


def above(page):
    """What is written on a page, without its tables of symptoms and its scripts."""
    body = page.split('<body>')[1].split('<script')[0]
    return re.sub('<details id="symptoms">.*?</details>', '', body, flags=re.DOTALL)


def test_clipping_is_told_as_it_was_measured():
    run = walk(600, noise=1.0, max_norm=0.36)
    layer = run.layers[0]
    share, coefficient = (
        np.average(layer.columns[name], weights=layer.count)
        for name in ('clipped_share', 'clip_coefficient_mean')
    )
    assert 0.2 < share < 0.8
    assert clipped(run) == pytest.approx((share, coefficient), rel=1e-12)
    [told] = [text for text in remarks(run) if 'clipped' in text]
    assert told.startswith(
        f'Gradients were clipped in {share:.0%} of the steps'.replace('%', ' %')
        + f' (max_norm 0.25), and multiplied by {coefficient:.3g} on average.'
    )
    power = np.median([np.mean(each.columns['clipping_power']) for each in run.layers])
    assert 0.3 < power < 1.7
    assert f'η^(1/{4 - power:.3g})' in told
    facts = {fact.name: fact for fact in overview(run)}
    assert facts['clipped'].value == f'{100 * share:.0f} %'
    data = page_data(run)
    panel = next(panel for panel in data['panels'] if panel['name'] == 'clipping')
    series = [line['series'] for line in panel['lines']]
    assert all(set(series) <= set(each['lines']) for each in data['layers'])
    # All layers share one line.
    assert len({tuple(each['lines'][series[0]]) for each in data['layers']}) == 1
    [axes] = draw(run, names=['clipping'])['clipping'].axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), layer.clipped_share)


def test_a_run_that_clips_nothing_has_no_panel_of_it():
    for metadata in (BY_NORM, {'clipping': None}):
        run = run_of(simulated(metadata=metadata), 'plain')
        assert clipped(run) == (0, 1)
        assert 'clipped_share' not in page_data(run)['layers'][0]['lines']
        assert 'clipping' not in draw(run)
        assert 'p of clipping' not in render_page(run)
        assert any('No step was clipped' in text for text in remarks(run)) == (
            metadata is BY_NORM
        )
    nothing = np.full(len(simulated().table), np.nan)
    names = ('clipped_share', 'clip_coefficient_mean', 'clipping_power')
    older = with_columns(simulated(), **dict.fromkeys(names, nothing))
    run = run_of(older, 'older')
    assert clipped(run) is None
    assert not any('clip' in text for text in [*remarks(run), *next_steps(run.report)])


def test_the_way_to_equilibrium_is_that_of_clipped_gradients(always):
    """(‖w‖/w*)⁴ with the w* of the moment comes to 1 at (4−2)λη/(1−α)."""
    for layer in always.layers:
        early = layer.distance > 0.3
        assert early.sum() > 5
        assert np.abs(layer.distance / layer.expected - 1)[early].max() < 0.25
        assert np.isnan(layer.guaranteed).all()
    # With the p of a run that does not clip it is missed.
    columns = layer.columns | {'clipping_power': 0 * layer.norm}
    other = type(layer)('without', columns)
    assert np.abs(other.distance / other.expected - 1)[early].max() > 2


def figures(pattern, text):
    """The figures that stand for the X of a pattern."""
    found = re.search(re.escape(pattern).replace('X', r'([\d,]+)'), text)
    return [float(figure.replace(',', '')) for figure in found.groups()]


def test_what_may_be_next_is_that_of_clipped_gradients():
    """Each figure by the closed form at p = 2: half the rate, w* ∝ √η."""
    run = walk(6000, max_norm=0.25, norm=2.0)
    report = run.report
    assert {stage.state for each in report.layers for stage in each.stages} == {
        'in equilibrium'
    }
    _, other, drop, _ = next_steps(report, BY_NORM['clipping'])
    time = (1 - MOMENTUM) / (2 * DECAY * LR)
    pattern = '‖w‖² comes nearer by 1/e in X iterations in place of X;'
    assert figures(pattern, other) == pytest.approx([time / 2, time], rel=0.01)
    needed = 10 * time * np.log(9 / 0.2)
    assert figures('again after X iterations', drop) == pytest.approx(
        [needed], rel=0.01
    )


@pytest.mark.parametrize(
    ('clipping', 'why'),
    [
        ({'type': 'value', 'clip_value': 1.0}, 'clipped by value'),
        ({'type': 'unknown', 'reason': 'Mine has its own step'}, 'Mine has its own'),
        ({'type': 'norm', 'max_norm': 1.0}, 'do not tell how often'),
    ],
)
def test_nothing_is_predicted_of_clipping_that_is_not_known(clipping, why):
    records = simulated(
        lr=np.repeat([0.05, 0.005], [600, 400]),
        norm=None,
        metadata={'clipping': clipping},
    )
    nothing = np.full(len(records.table), np.nan)
    names = ('clipped_share', 'clip_coefficient_mean', 'clipping_power')
    run = run_of(with_columns(records, **dict.fromkeys(names, nothing)), 'unknown')
    told = [*advice(run.report, clipping), *next_steps(run.report, clipping)]
    assert any(f'not predicted: {why}' in text or why in text for text in told)
    promises = ('comes nearer', 'A stage of', 'k^(−1/', 'doubled', 'again after')
    assert not any(promise in text for text in told for promise in promises)
    assert all(np.isnan(layer.expected).all() for layer in run.layers)
    assert any(why in text and 'not predicted' in text for text in remarks(run))
    page = above(render_page(run))
    assert not any(promise in page for promise in promises)


def test_how_white_gradients_are_is_told(tmp_path):
    for correlation, told in ((0.4, 'the same way'), (0.0, 'white'), (-0.4, 'apart')):
        run = run_of(simulated(correlation=correlation), 'walk')
        ratios = []
        for layer in run.layers:
            last, columns = layer.stage == layer.stage[-1], layer.columns
            above_, below = (
                columns[name][last] @ columns['count'][last]
                for name in ('unit_h_mean', 'unit_grad_sq_mean')
            )
            ratios.append(above_ / below)
        [text] = [text for text in remarks(run) if 'E[h̃]' in text]
        assert f'E[h̃]/E‖g̃‖² is {np.median(ratios):.3g} in the median layer' in text
        assert told in text
        shown = [each['stages'][-1]['white'] for each in page_data(run)['layers']]
        assert shown == pytest.approx(ratios, rel=5e-3)
        assert 'how far gradients are from white' in render_page(run)
    # Without momentum h̃ is ‖g̃‖², whatever the gradients.
    plain = run_of(simulated(momentum=0.0), 'plain')
    assert not any('E[h̃]' in text for text in remarks(plain))


def test_the_angle_is_set_beside_known_recipes(run):
    steps = np.r_[np.linspace(1e-3, LR, 60), np.full(900, LR), np.full(540, LR / 10)]
    angles = np.sqrt(2 * DECAY * steps / (1 + MOMENTUM))
    told = remarks(run)[0]
    assert told.startswith(f'Δ* is {angles.max():.2e}'.replace('e-0', 'e−') + ' rad')
    total = float(re.search(r'adds up to ([\d.]+) rad', told)[1])
    assert total == pytest.approx(angles.sum(), rel=0.02)
    assert 'RTMDet-s 4.59e−3' in told
    turned = [layer.angle @ layer.count for layer in run.layers]
    assert f'by {np.median(turned):.3g} rad in all' in told
    # Twice the largest of known recipes, 4.59e-3, is exceeded; half of it is not.
    [far] = far_outside(run)
    assert f'{angles.max() / 4.59e-3:.2g} times the largest' in far
    assert above(render_page(run)).count('times the largest') == 1
    near = run_of(simulated(lr=np.full(900, 5e-3)), 'near')
    assert far_outside(near) == []


def test_the_sum_is_judged_once_a_training_has_ended():
    """150 rad·1e-3 are below half of the 1.07 rad of the smallest known recipe."""
    changes = dict(lr=np.full(300, 5e-4), norm=2.0)
    ended = run_of(simulated(**changes), 'ended')
    [told] = far_outside(ended)
    assert told.startswith('The sum of Δ* over the training, 0.316 rad, is 1/3.4 of')
    going_on = run_of(simulated(metadata={'max_iters': 10_000}, **changes), 'going on')
    assert far_outside(going_on) == []


@pytest.mark.parametrize('theory', ['adamw', 'nadamw', 'lion', 'lamb', 'adam'])
def test_words_are_those_of_the_optimizer(theory):
    settings = dict(lr=np.full(900, 5e-3), weight_decay=0.5, momentum=0.9, norm=1.0)
    run = run_of(simulated(optimizer=theory, **settings), theory)
    page = above(render_page(run))
    page = page.replace('<code>', '').split('id="h-checks"')[0]
    for word in ('h̃', '4λη', '(1−α)', '√(2λη/(1+α))', 'k^(−1/4)', '‖w‖⁴'):
        assert word not in page
    data = page_data(run)
    adaptive = theory in ('adamw', 'nadamw', 'lion')
    assert data['white'] is False
    assert data['layers'][0]['unit'] == ('U' if adaptive else '‖g̃‖²')
    drawn = draw(run)
    assert ('distance' in drawn) == adaptive
    legends = {
        text.get_text()
        for figure in drawn.values()
        for legend in figure.legends
        for text in legend.get_texts()
    }
    assert not any('h̃' in text or '4λη' in text for text in legends)
    assert ('expected: 2λη in ‖w‖²' in legends) == adaptive
    if adaptive:
        assert data['law'] == 'Δ/Δ*·‖w‖/w*'
        layer = run.layers[0]
        noise = {'adamw': 0.1 / 1.9}.get(theory)
        if noise:
            known = np.isfinite(layer.norm_eq)
            truth = np.sqrt(5e-3 * layer.unit_mean / (2 * 0.5 * noise))
            np.testing.assert_allclose(layer.norm_eq[known], truth[known], rtol=1e-9)


def test_images_of_all_processes_are_counted():
    config = 'train_dataloader = dict(batch_size=4)'
    for processes, value, detail in (
        (None, '4', 'images per process'),
        (1, '4', 'images'),
        (8, '32', '4 per process × 8 processes'),
    ):
        facts = {'config': config, 'processes': processes}
        run = run_of(simulated(metadata=facts), 'run')
        fact = next(fact for fact in overview(run) if fact.name == 'batch')
        assert (fact.value, fact.detail) == (value, detail)


def printed(rendered):
    from rich.console import Console

    console = Console(width=150)
    with console.capture() as capture:
        console.print(rendered)
    return capture.get()


def test_the_terminal_speaks_of_the_optimizer_and_of_clipping(always, run):
    text = printed(render_report(always.report))
    assert '100 %' in text and 'clipped' in text
    plain = printed(render_report(run.report))
    assert 'clipped' not in plain
    assert 'of known recipes the nearest are' in plain
    assert 'Δ/Δ*·(‖w‖/w*)²' in plain
    settings = dict(lr=np.full(400, 5e-3), weight_decay=0.5, momentum=0.9, norm=1.0)
    adamw = run_of(simulated(optimizer='adamw', **settings), 'adamw')
    text = printed(render_report(adamw.report))
    assert 'Δ/Δ*·‖w‖/w*' in text and '(‖w‖/w*)²' not in text


def test_runs_of_different_optimizers_are_compared(tmp_path):
    from runs import write_run

    settings = dict(lr=np.full(400, 5e-3), weight_decay=0.5, momentum=0.9, norm=1.0)
    work_dirs = [
        write_run(tmp_path / 'plain'),
        write_run(tmp_path / 'adamw', optimizer='adamw', **settings),
        write_run(tmp_path / 'clipped', metadata=BY_NORM, max_norm=0.05),
    ]
    comparison = compare(work_dirs, tmp_path / 'out')
    rows = {row.what: row.values for row in comparison.stages[0].rows}
    assert rows['share of clipped steps'] == [0, 0, 1]
    assert len(comparison.files) == 3
