"""The reproduction's page: motion, scores, verdicts, and what the theory misses."""

import re
from dataclasses import replace

import numpy as np
import pytest
from pages import rows
from runs import NAMES, STEP, simulated, write_run, write_scalars
from simulation import Walk

from smd_mmdet import theory
from smd_mmdet.records import RecordWriter
from studies.reproduction import page
from studies.reproduction.check_tables import parting_table
from studies.reproduction.comparison import Paired, paired
from studies.reproduction.experiments import Experiment
from studies.reproduction.partings import noise_of
from studies.reproduction.results import Results, read_results
from studies.reproduction.spread import Spread
from studies.reproduction.summary import After, Course, summaries, summary

GAINS = (0.02, 0.01, 0.03)
PLAIN = Experiment('walk', 'configs/walk.py', 'A walk', 'plain', 0, 3, data='')
RESCALED = replace(PLAIN, name='scaled', title='rescaled', against='walk')
MISSING = replace(PLAIN, name='other', group='Another', title='not trained')
LIST = [PLAIN, RESCALED, MISSING]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Three seeds of walks, plain and rescaled, as finished runs; one interrupted."""
    root = tmp_path_factory.mktemp('reproduction')
    for experiment in (PLAIN, RESCALED):
        for seed in range(3):
            folder = root / f'{experiment.name}-seed{seed}'
            rescale = experiment is RESCALED
            write_run(folder, seed=seed, norm=None, rescale=rescale)
            value = 0.3 + 0.1 * seed + rescale * GAINS[seed]
            lines = [{'loss': 1.0, 'iter': 1500}, {'coco/bbox_mAP': value, 'step': 0}]
            write_scalars(folder, 'log', lines)
            (folder / 'finished').touch()
    (root / 'other-seed0').mkdir()
    return root


@pytest.fixture(scope='module')
def text(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp('page') / 'reproduction.md'
    page.write_page(runs, out, LIST, walks=0)
    for image in re.findall(r'\]\((images/\S+)\)', out.read_text()):
        assert (out.parent / image).read_bytes().startswith(b'\x89PNG')
    return out.read_text()


def test_the_motion_on_the_page_is_that_of_the_walks(text):
    found = rows(text, 'Motion at the end of each stage')
    assert [(row['run'], row['stage']) for row in found] == [
        ('plain', '0'), ('plain', '1'), ('rescaled', '0'), ('rescaled', '1')
    ]  # fmt: skip
    # Iterations of the last third of each stage, in windows of 20.
    ends = {'0': (slice(660, 960), 0.05), '1': (slice(1300, 1500), 0.005)}
    for row in found:
        part, lr = ends[row['stage']]
        settings = lr, STEP['weight_decay'], STEP['momentum']
        ratios, norms = [], []
        for seed in range(3):
            changes = dict(norm=None, rescale=row['run'] == 'rescaled')
            walk = Walk(**(STEP | changes), layers=len(NAMES), seed=seed)
            angle = np.sqrt((walk.series['angular_update'][part] ** 2).mean(0))
            ratios += list(angle / theory.angular_update(*settings))
            mean_h = walk.series['unit_h'][part].mean(0)
            target = theory.equilibrium_norm(*settings[:2], mean_h, settings[2])
            norm = (walk.series['weight_norm'][part] ** 4).mean(0) ** 0.25
            norms += list(norm / target)
        for values, column in ((ratios, 'Δ_rms/Δ*'), (norms, '‖w‖/w*')):
            shown = [float(v) for v in re.findall(r'\d+\.?\d*', row[column])]
            expected = [np.median(values), min(values), max(values)]
            assert shown == pytest.approx(expected, rel=6e-3), (row, column)
        assert float(row['Δ*']) == pytest.approx(
            theory.angular_update(*settings), rel=5e-3
        )


def test_scores_and_their_differences_are_those_of_the_logs(text):
    found = rows(text, 'Scores')
    # 0.3, 0.4, 0.5; and 0.32, 0.41, 0.53.
    assert [row['at 1,500'] for row in found] == ['40.0 ± 10.0', '42.0 ± 10.5']
    (row,) = rows(text, 'One against the other')
    assert row['by seed'] == '+2.0, +1.0, +3.0'
    assert row['mean'] == '+2.0'
    # t = 0.02/(0.01/√3) with two degrees of freedom, whose 97.5 % quantile is 4.3027.
    reach = 4.3027 / np.sqrt(3)
    assert row['95 %'] == f'{2 - reach:+.1f} to {2 + reach:+.1f}'
    t = 2 * np.sqrt(3)
    assert float(row['p']) == pytest.approx(1 - t / np.sqrt(2 + t**2), rel=0.02)
    assert row['verdict'] == 'not significant'


def test_the_page_says_what_is_not_done(text):
    assert '6 of 9 runs are done.' in text
    (row,) = [r for r in rows(text, 'What was run') if r['run'] == 'not trained']
    assert row['seeds done'] == 'not done'
    assert '\n## Another\n' not in text


def test_the_first_lines_say_which_claims_held(text, runs):
    """A walk obeys the theory; its scores are those that the logs were given."""
    first, second, third, *_ = re.findall(r'^\d\. (.*)', text, re.MULTILINE)
    # The walks are still on their way at the end of the stage.
    assert 'Δ comes to Δ\\*: did not show.' in first and '0 of 9 layers' in first
    assert f'fails in 0 of {2 * 3 * 2 * len(NAMES)} layer stages' in first
    assert 'rescaling puts it there: held.' in second
    assert 'differs by +2.0 to +2.0 points' in second
    assert 'better in 0 of 1 score, significantly worse in 0' in second
    assert 'not tested' in third and 'cannot show it: A walk.' in third
    (row,) = rows(text, "The paper's claims, in miniature")
    motion = rows(text, 'Motion at the end of each stage')
    ratios = [re.match(r'\S+', r['Δ_rms/Δ*'])[0] for r in motion]
    assert row['layers in equilibrium, stage 0'] == motion[0]['layers in equilibrium']
    assert row['Δ_rms/Δ*, stage 0'] == ratios[0]
    assert row['stage 1, plain → rescaled'] == f'{ratios[1]} → {ratios[3]}'
    (pair,) = rows(text, 'One against the other')
    shown = f'box AP {pair["mean"]} ({pair["95 %"]})'
    assert row['final score, rescaled − plain (95 %)'] == shown


@pytest.mark.parametrize(
    ('changes', 'claim', 'said'),
    [
        ({'failing': 1}, 0, 'held in part'),
        ({'there': 0}, 0, 'did not show'),
        ({'after': (After(1, Spread.of([1.1]), Spread.of([0.9])),)}, 1, 'did not show'),
        ({'after': ()}, 1, 'not run'),
        ({'courses': (Course('coco/bbox_mAP', 40.0, 38.5, 5),)}, 2, 'seen in 1 of 1'),
        ({'courses': (Course('coco/bbox_mAP', 40.0, 41.0, 5),)}, 2, 'did not show'),
    ],
)
def test_a_claim_that_does_not_hold_is_told(changes, claim, said, runs):
    (model,) = summaries(read_results(LIST, runs))
    arrived = replace(model, there=model.layers)
    lines = summary([replace(arrived, **changes)])[0].splitlines()
    assert said in lines[claim]
    good = summary([arrived])[0].splitlines()
    assert said not in good[claim]
    assert ': held.**' in good[0] and ': held.**' in good[1]


def test_a_claim_that_holds_in_one_model_of_two_names_the_other(runs):
    (model,) = summaries(read_results(LIST, runs))
    there = replace(model, there=model.layers)
    short = replace(model, model='another', there=model.layers // 2)
    claim = summary([there, short])[0].splitlines()[0]
    assert 'held in 1 of 2 models' in claim
    assert claim.endswith(f' in another ({model.layers // 2} of {model.layers}).')


def test_verdicts_are_counted_over_layers_stages_and_seeds(text, runs):
    from smd_mmdet.checks import check
    from smd_mmdet.records import read_records

    wanted = dict.fromkeys(('holds', 'fails', 'undecided', 'not applicable'), 0)
    for seed in range(3):
        for layer in check(read_records(runs / f'walk-seed{seed}')).layers:
            for stage in layer.stages:
                if stage.stage >= 0:
                    wanted[stage.verdict_of('transient_law')] += 1
    row = next(r for r in rows(text, 'Checks') if r['check'] == 'Transient law')
    assert row['plain'] == ' / '.join(map(str, wanted.values()))
    assert wanted['holds'] > 0 and sum(wanted.values()) == 3 * 2 * len(NAMES)


def test_every_layer_is_in_equilibrium_or_told_why_not(text):
    apart = rows(text, 'Layers that are not in equilibrium, and why')
    for row in rows(text, 'Motion at the end of each stage'):
        there, of = map(int, row['layers in equilibrium'].split(' of '))
        key = row['run'], row['stage']
        others = [r for r in apart if (r['run'], r['stage']) == key]
        assert there + sum(int(r['layers']) for r in others) == of
        assert all(r['the furthest of them'].split(': ', 1)[1] for r in others)
    (plain,) = [r for r in apart if (r['run'], r['stage']) == ('plain', '1')]
    assert plain['state'] == 'unreachable in this stage'


def test_a_layer_that_breaks_the_theory_is_named_with_its_figures(tmp_path):
    folder = tmp_path / 'runs' / 'walk-seed0'
    write_run(folder, radial=0.3)
    (folder / 'finished').touch()
    shown = parting_table(read_results([PLAIN], tmp_path / 'runs'))
    found = rows(f'# apart\n{shown}', 'apart')
    layers = {row['layer'] for row in found}
    assert layers == {f'`{name.removesuffix(".weight")}`' for name in NAMES}
    assert all(row['state'] == 'not scale-invariant' for row in found)
    # The cosine that the walk was made with.
    assert all(float(row['cosine']) == pytest.approx(0.3, rel=0.02) for row in found)
    assert all(row['seeds'] == '1 of 1' for row in found)


def test_no_difference_is_called_identical_and_one_seed_gives_no_interval(runs):
    plain, scaled, _ = read_results(LIST, runs)
    same = paired(plain, plain)
    assert {pair.verdict for pair in same} == {'identical'}
    one = paired(plain, Results(RESCALED, scaled.runs[:1]))
    assert [pair.verdict for pair in one] == ['one seed: no interval']
    assert np.isnan(one[0].p_value)


def test_a_layer_without_gradient_has_no_noise(tmp_path):
    folder = tmp_path / 'walk-seed0'
    records = simulated()
    columns = {n: records.table[n].to_pylist() for n in records.table.column_names}
    starved = np.array(columns['layer']) == NAMES[0]
    columns['count'] = np.where(starved, 0, columns['count'])
    RecordWriter(folder, records.metadata).append(columns)
    (folder / 'finished').touch()
    done = read_results([PLAIN], tmp_path)
    assert np.isnan(noise_of(done[0].runs[0], NAMES[0], 0)).all()
    row = rows(f'# apart\n{parting_table(done)}', 'apart')[0]
    assert (row['state'], row['V/L²']) == ('no gradient', '–')
    assert row['windows with h̃ < 0 once'] == '–'


@pytest.mark.parametrize(
    ('differences', 'verdict'),
    [
        ((0.0,) * 3, 'identical'),
        ((0.1,), 'one seed: no interval'),
        ((0.1,) * 3, 'alike in all seeds: no interval'),
    ],
)
def test_differences_without_an_interval_are_told_apart(differences, verdict):
    nothing = (np.nan, np.nan)
    pair = Paired('AP', 100, differences, differences[0], nothing, np.nan)
    assert pair.verdict == verdict
