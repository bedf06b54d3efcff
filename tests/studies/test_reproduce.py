"""tools/reproduce.py: its list, its training, its page and its random walks."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from runs import NAMES, STEP, simulated, write_run, write_scalars
from simulation import Walk

from smd_mmdet import theory
from smd_mmdet.records import RecordWriter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools'))

import reproduce  # noqa: E402
from reproduction import page, theorems, training, walks  # noqa: E402
from reproduction.experiments import DATA, EXPERIMENTS, Experiment  # noqa: E402
from reproduction.model_section import parting_table  # noqa: E402
from reproduction.results import (  # noqa: E402
    Paired,
    Results,
    noise_of,
    paired,
    read_results,
)
from reproduction.theorem_section import theorem_section  # noqa: E402

BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}

REST = 'At rest, and the way there (Theorems 1, 2, 3)'

# -------------------------------------------------------------------------- the list


def test_every_entry_can_be_told_apart_and_compared():
    assert len(BY_NAME) == len(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        assert (ROOT / experiment.config).is_file()
        assert experiment.data in DATA or not experiment.data
        if experiment.against:
            other = BY_NAME[experiment.against]
            assert (other.group, other.seeds) == (experiment.group, experiment.seeds)


DETECTORS = [e for e in EXPERIMENTS if e.data == 'shapes']


@cache
def load(name):
    pytest.importorskip('mmdet', reason='mmdet is missing')
    from smd_mmdet.config.load import load_config

    return load_config(str(ROOT / BY_NAME[name].config), BY_NAME[name].options)


# One of each model.
@pytest.mark.parametrize('name', {e.group: e.name for e in DETECTORS}.values())
def test_the_model_builds_and_is_scale_invariant_throughout(name):
    from smd_mmdet.audit import build_untrained
    from smd_mmdet.invariance import find_scale_invariant

    model = build_untrained(load(name))
    convs = {
        name
        for name, weight in model.named_parameters()
        if weight.dim() == 4 and re.search(r'backbone|neck|convs', name)
    }
    found = {entry.name for entry in find_scale_invariant(model) if entry.invariant}
    assert len(convs) > 20
    assert convs <= found


def test_runs_that_are_compared_differ_by_one_hook():
    from mmengine.registry import HOOKS

    for experiment in DETECTORS:
        if experiment.against:
            names = experiment.name, experiment.against
            one, other = (load(name).to_dict() for name in names)
            hooks = one.pop('custom_hooks')
            assert hooks[:-1] == other.pop('custom_hooks')
            assert hooks[-1]['type'] == 'SMDRescaleHook'
            assert HOOKS.get('SMDRescaleHook') is not None
            assert one == other


@pytest.mark.parametrize('norm', ['bn', 'gn'])
def test_only_the_first_stage_is_long_enough(norm):
    config = load(f'mask-rcnn_{norm}_3stage')
    optimizer = config.optim_wrapper.optimizer
    decay = optimizer.weight_decay
    decay *= config.optim_wrapper.paramwise_cfg.scale_invariant_decay_mult
    steps = config.param_scheduler[1].milestones
    ends = [0, *steps, config.train_cfg.max_iters]
    assert all(end % config.train_cfg.val_interval == 0 for end in ends)
    for stage, length in enumerate(np.diff(ends)):
        fold = (1 - optimizer.momentum) / (4 * decay * optimizer.lr * 0.1**stage)
        assert (length > 10 * fold) if stage == 0 else (length < fold)


# ---------------------------------------------------------------------------- training

# Trains in steps of a file, as tools/train.py does in iterations of a checkpoint.
TRAINER = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with open(folder / 'starts', 'a') as file:
    file.write('x')
step = folder / 'step'
done = int(step.read_text()) if step.exists() else 0
for number in range(done + 1, 4):
    if (folder / 'fail').exists():
        sys.exit('the reason')
    step.write_text(str(number))
    (folder / f'iter_{number}.pth').touch()
    while number == 2 and (folder / 'hang').exists():
        time.sleep(0.01)
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Tasks that train in no time, and what is said of them."""
    script = tmp_path / 'trainer.py'
    script.write_text(TRAINER)
    monkeypatch.setattr(
        training.Task,
        'command',
        lambda task: [sys.executable, str(script), str(task.folder)],
    )
    experiment = Experiment('walk', 'none.py', 'A model', 'plain', 0, 3, data='')
    tasks = training.tasks_of([experiment], tmp_path / 'runs')
    for task in tasks:
        task.folder.mkdir(parents=True)
    return tasks


def starts(task):
    path = task.folder / 'starts'
    return len(path.read_text()) if path.exists() else 0


def test_a_finished_run_is_not_trained_again(trainer):
    said = []
    assert training.train_all(trainer, 2, said.append) == 0
    assert [starts(task) for task in trainer] == [1, 1, 1]
    assert [line.split(',')[0] for line in said] == [
        f'walk-seed{k}: goes on' for k in range(3)
    ]
    assert training.train_all(trainer, 2, said.append) == 0
    assert [starts(task) for task in trainer] == [1, 1, 1]
    assert not list(trainer[0].folder.glob('*.pth'))
    assert not (trainer[0].folder / training.OUTPUT).exists()


def test_a_failed_run_is_told_and_tried_again(trainer):
    said = []
    (trainer[1].folder / 'fail').touch()
    assert training.train_all(trainer, 1, said.append) == 1
    assert said[-2] == 'walk-seed1: failed with exit status 1: the reason'
    assert [task.state for task in trainer] == ['finished', 'interrupted', 'finished']
    (trainer[1].folder / 'fail').unlink()
    assert training.train_all(trainer, 1, said.append) == 0
    assert [starts(task) for task in trainer] == [1, 2, 1]


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_goes_on(trainer, how):
    task, step = trainer[0], trainer[0].folder / 'step'
    (task.folder / 'hang').touch()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.set_inheritable(writer, True)
            training.train_all([task], 1, lambda line: None)
        finally:
            os._exit(0)
    os.close(writer)
    wait_for(lambda: step.exists() and step.read_text() == '2')
    os.kill(pid, how)
    os.waitpid(pid, 0)
    assert task.state == 'interrupted'
    if how == signal.SIGKILL:
        # What it started lives on: it must not be joined by a second one.
        lock = os.open(task.folder / 'lock', os.O_WRONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
    (task.folder / 'hang').unlink()
    assert training.train_all([task], 1, lambda line: None) == 0
    assert task.state == 'finished'
    assert starts(task) == 2
    os.close(reader)


def test_runs_are_ordered_by_importance_and_chosen_by_name(tmp_path):
    def names(**rest):
        return [task.name for task in training.tasks_of(EXPERIMENTS, tmp_path, **rest)]

    assert names()[:4] == [
        'mask-rcnn_bn_3stage-seed0',
        'mask-rcnn_bn_3stage-rescaled-seed0',
        'mask-rcnn_bn_3stage-seed1',
        'mask-rcnn_bn_3stage-rescaled-seed1',
    ]
    assert len(names()) == len(set(names()))
    assert set(names(quick=True)) < set(names())
    assert all(name.endswith('-seed0') for name in names(quick=True))
    assert names(only='*-seed2') == [n for n in names() if n.endswith('-seed2')]


def test_the_command_is_a_call_of_train_py(tmp_path):
    experiment = replace(EXPERIMENTS[0], options={'train_cfg.max_iters': 5})
    words = training.Task(experiment, 2, tmp_path).command()
    assert words[3:5] == [str(ROOT / 'tools/train.py'), str(ROOT / experiment.config)]
    assert words[5:8] == ['--work-dir', str(tmp_path / f'{experiment.name}-seed2'),
                          '--resume']  # fmt: skip
    assert words[-2:] == ['randomness.seed=2', 'train_cfg.max_iters=5']


def test_a_folder_that_was_moved_goes_on_from_its_own_checkpoint(tmp_path):
    task = training.Task(EXPERIMENTS[0], 0, tmp_path)
    task.folder.mkdir()
    (task.folder / 'last_checkpoint').write_text('/where/it/was/iter_300.pth')
    assert 'iter_300.pth' not in ' '.join(task.command())
    here = task.folder / 'iter_300.pth'
    here.touch()
    words = task.command()
    assert words[words.index('--resume') + 1] == str(here)


@pytest.mark.parametrize(
    ('arguments', 'name'),
    [
        (['--jobs', '0'], '--jobs'),
        (['--jobs', 'many'], '--jobs'),
        (['--only', 'nothing'], '--only'),
        (['--out', 'page.txt'], '--out'),
        (['--unknown'], '--unknown'),
    ],
)
def test_a_bad_argument_is_one_line(arguments, name, capsys):
    with pytest.raises(SystemExit) as exit:
        reproduce.main(arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.startswith('error: ') and name in error and error.count('\n') == 1


def test_the_list_tells_what_is_done(tmp_path, capsys):
    folder = tmp_path / f'{EXPERIMENTS[0].name}-seed0'
    folder.mkdir()
    (folder / 'finished').touch()
    only = ['--only', EXPERIMENTS[0].name, '--work-dir', str(tmp_path)]
    assert reproduce.main(['--list', *only]) == 0
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ['finished'] + ['not'] * (EXPERIMENTS[0].seeds - 1)


def test_a_finished_run_without_records_is_one_line(tmp_path, capsys):
    folder = tmp_path / f'{EXPERIMENTS[0].name}-seed0'
    folder.mkdir()
    (folder / 'finished').touch()
    out = tmp_path / 'page.md'
    arguments = ['--page', '--work-dir', str(tmp_path), '--out', str(out)]
    assert reproduce.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    assert str(folder) in error
    assert not out.exists()


def test_the_script_is_bash_and_hands_its_arguments_on():
    script = ROOT / 'tools/reproduce.sh'
    subprocess.run(['bash', '-n', script], check=True)
    assert '"$@"' in script.read_text()


# -------------------------------------------------------------------------------- page

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


def rows(text, title):
    """Cells of the first table under a heading."""
    lines = text.split(f'# {title}\n')[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith('|'))
    found = []
    for line in lines[first:]:
        if not line.startswith('|'):
            break
        found.append([cell.strip() for cell in line.strip('|').split(' | ')])
    return [dict(zip(found[0], row, strict=True)) for row in found[2:]]


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
    (row,) = [row for row in rows(text, "The paper's claims, in miniature")
              if row['run'] == 'not trained']  # fmt: skip
    assert row['seeds done'] == 'not done'
    assert '\n## Another\n' not in text


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


# ------------------------------------------------------------------------- random walks


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_inner_products_walk_as_vectors_do(momentum):
    rng = np.random.default_rng(0)
    lr, decay, size = 0.3, 0.02, 12
    w, v = rng.standard_normal(size), np.zeros(size)
    state = (np.array([w @ w]), np.zeros(1), np.zeros(1))
    for _ in range(200):
        direction = rng.standard_normal(size)
        direction -= w * (direction @ w) / (w @ w)
        direction /= np.linalg.norm(direction)
        tangential = v - w * (v @ w) / (w @ w)
        length = np.linalg.norm(tangential)
        cosine = direction @ tangential / length if length else 0.0
        unit = rng.uniform(0.5, 1.5)
        g = np.sqrt(unit) * direction / np.linalg.norm(w)
        h = (g @ g + 2 * momentum * (v @ g)) * (w @ w)
        v = momentum * v + g + decay * w
        u = w - lr * v
        angle = np.arctan2(
            np.linalg.norm(u - w * (u @ w) / (w @ w)) * np.linalg.norm(w), u @ w
        )
        w = u
        state, got_angle, got_h = walks.advance(
            state, np.array([unit]), np.array([cosine]), lr, decay, momentum
        )
        assert np.ravel(state) == pytest.approx([w @ w, w @ v, v @ v], rel=1e-9)
        assert [got_angle[0], got_h[0]] == pytest.approx([angle, h], rel=1e-7)


def test_without_noise_a_walk_follows_its_recurrence():
    lr, decay = 0.2, 0.01
    walk = walks.Walks(np.full(50, lr), decay, start=4.0, spread=0.0, number=2)
    norm_sq = 2 * np.sqrt(lr / (2 * decay))
    for step in range(50):
        assert walk.norm_sq[step] == pytest.approx(norm_sq, rel=1e-12)
        norm_sq = (1 - lr * decay) ** 2 * norm_sq + lr**2 / norm_sq


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
