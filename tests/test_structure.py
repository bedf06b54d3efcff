"""Imports that point one way, and additions that touch one place or two."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'smd_mmdet'

# Each room of the house, and the rooms below it that it may import from; the command
# line may import from all.
ROOMS = {
    'theory': (),
    'stages': (),
    'records': (),
    'datasets': (),
    'invariance': (),
    'forecast': ('theory',),
    'recipes': ('theory',),
    'monitor': ('theory', 'stages'),
    'rescale': ('invariance',),
    'checks': ('theory', 'stages', 'records', 'recipes'),
    'control': (*('theory', 'invariance', 'monitor', 'rescale', 'records', 'checks'),),
    'report': ('theory', 'stages', 'records', 'recipes', 'checks'),
    'config': ('theory', 'stages', 'monitor', 'records', 'control'),
    'plan': (
        *('theory', 'stages', 'forecast', 'records', 'recipes', 'config', 'control'),
    ),
    'audit': ('invariance', 'config'),
    'transfer': ('theory', 'records', 'config', 'control', 'audit'),
    'launch': ('config',),
    'environment': ('monitor', 'launch'),
    'engine': (
        *('theory', 'stages', 'invariance', 'monitor', 'rescale', 'records'),
        *('checks', 'report', 'config', 'control'),
    ),
    'cli': None,
}
# What every room may use, and what makes the package itself.
CELLAR = {'__init__', '_arguments', '_text'}
# What works in a plain torch loop, without MMEngine and MMDetection.
WITHOUT_MMENGINE = (
    *('theory', 'stages', 'forecast', 'recipes', 'records', 'invariance', 'monitor'),
    *('rescale', 'checks', 'report', 'control'),
)
WITHOUT_TORCH = (
    *('theory', 'stages', 'forecast', 'recipes', 'records', 'checks', 'report'),
)
MMENGINE = ('mmengine', 'mmdet', 'mmcv', 'mmpretrain')
# It makes inputs for the detector it is handed, whose packages are there then.
LAZY = 'sample_inputs.py'


def modules(name):
    """The files of a module or package of ours."""
    folder = PACKAGE / name
    return sorted(folder.rglob('*.py')) if folder.is_dir() else [PACKAGE / f'{name}.py']


def imported(file, anywhere=True):
    """Absolute names of what a file imports, within functions too or at its top."""
    package = file.relative_to(ROOT).with_suffix('').parts[:-1]
    tree = ast.parse(file.read_text('utf-8'))
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join((*above, *filter(None, [node.module])))
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)


def reaches(file, names, **kwargs):
    return {
        found
        for found in imported(file, **kwargs)
        if any(found == name or found.startswith(f'{name}.') for name in names)
    }


def breaches(name, file):
    """What a file of a room imports that its room must not."""
    allowed = ROOMS[name]
    below = {f'smd_mmdet.{room}' for room in (*(allowed or ()), name)}
    others = {f'smd_mmdet.{room}' for room in ROOMS} - below
    found = reaches(file, others) if allowed is not None else set()
    if name in WITHOUT_MMENGINE:
        found |= reaches(file, MMENGINE, anywhere=file.name != LAZY)
    if name in WITHOUT_TORCH:
        found |= reaches(file, ('torch',))
    return found


def test_every_file_lies_in_a_room():
    names = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == '.py' or (path / '__init__.py').is_file()
    }
    assert names - CELLAR == set(ROOMS)


@pytest.mark.parametrize('name', ROOMS)
def test_imports_run_downward_only(name):
    for file in modules(name):
        assert not breaches(name, file), file


@pytest.mark.parametrize(
    ('name', 'line'),
    [
        *((room, 'import smd_mmdet.cli') for room in ROOMS if room != 'cli'),
        *(
            (room, 'def late():\n    from smd_mmdet.engine import hook')
            for room in ROOMS
            if room not in ('engine', 'cli')
        ),
        *((room, 'def late():\n    import mmengine') for room in WITHOUT_MMENGINE),
        *((room, 'from torch import nn') for room in WITHOUT_TORCH),
        ('invariance', 'from ..config.errors import SettingError'),
        ('checks', 'from smd_mmdet.report import words'),
        ('theory', 'from smd_mmdet import stages'),
    ],
)
def test_a_broken_rule_is_seen(name, line, tmp_path, monkeypatch):
    """Each rule, broken on purpose."""
    monkeypatch.setattr(f'{__name__}.ROOT', tmp_path)
    file = tmp_path / 'smd_mmdet' / name / 'broken.py'
    file.parent.mkdir(parents=True)
    file.write_text(line + '\n', 'utf-8')
    assert breaches(name, file)


def test_no_module_imports_itself_in_a_circle():
    files = {
        '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix(
            '.__init__'
        ): file
        for file in PACKAGE.rglob('*.py')
    }
    edges = {
        name: {one for one in imported(file, anywhere=False) if one in files} - {name}
        for name, file in files.items()
        if file.name != '__init__.py'
    }
    done = set()

    def visit(name, path):
        assert name not in path, ' -> '.join((*path, name))
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_a_new_quantity_is_one_formula(tmp_path, monkeypatch):
    """It reaches the records and the visualizer; check and report take such records."""
    torch = pytest.importorskip('torch')
    from smd_mmdet import SphericalMotionMonitor
    from smd_mmdet.checks import check
    from smd_mmdet.checks.live import standing
    from smd_mmdet.engine.progress import scalars
    from smd_mmdet.monitor.quantities import QUANTITIES
    from smd_mmdet.records import RecordWriter, read_records
    from smd_mmdet.report import write_report

    length = {'update_norm': lambda step: step.dd.clamp_min(0).sqrt()}
    monkeypatch.setitem(QUANTITIES, *length.popitem())
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 4))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    writer = RecordWriter(tmp_path, {'layers': {'w': {'invariant': True}}})
    lengths = []
    with SphericalMotionMonitor(optimizer, {'w': weight}, window=20) as monitor:
        for _ in range(200):
            before = weight.detach().double().clone()
            weight.grad = torch.randn(8, 4)
            optimizer.step()
            lengths.append(float((weight.detach().double() - before).norm()))
        rows = monitor.collect()
    writer.append(rows)
    records = read_records(tmp_path)
    measured = records.table['update_norm_mean'].to_numpy()
    known = torch.tensor(lengths).view(10, 20).mean(1).numpy()
    assert measured == pytest.approx(known, rel=1e-4)
    last = {name: values[-1:] for name, values in rows.items()}
    assert 'smd/update_norm/w' in scalars(last, standing(last))
    assert check(records).layers
    assert write_report(tmp_path, None, False, [])


def test_a_new_check_is_a_function_and_its_words(tmp_path, monkeypatch):
    from runs import write_run

    from smd_mmdet.checks import check
    from smd_mmdet.checks.assumptions import ASSUMPTIONS
    from smd_mmdet.checks.findings import undecided
    from smd_mmdet.records import read_records
    from smd_mmdet.report import write_report
    from smd_mmdet.report.words import CHECKS

    monkeypatch.setitem(ASSUMPTIONS, 'mine', lambda case: undecided('who knows'))
    monkeypatch.setitem(CHECKS, 'mine', ('My assumption', 'What I assume.'))
    write_run(tmp_path)
    stages = [s for layer in check(read_records(tmp_path)).layers for s in layer.stages]
    assert any(c.name == 'mine' and c.reason == 'who knows' for c in stages[0].checks)
    page = next(
        p for p in write_report(tmp_path, None, False, []) if p.suffix == '.html'
    )
    assert 'My assumption' in page.read_text('utf-8')


def test_a_new_figure_is_a_function_and_its_words(tmp_path, monkeypatch):
    from runs import write_run

    from smd_mmdet.report import figures, words, write_report

    def mine(run, chosen):
        figure = figures.new_figure()
        figure.subplots().plot(chosen[0].iter, chosen[0].norm)
        return figure

    monkeypatch.setitem(figures.FIGURES, 'mine', mine)
    monkeypatch.setitem(words.FIGURES, 'mine', ('Mine', 'What it shows.'))
    write_run(tmp_path)
    written = write_report(tmp_path, None, False, [])
    assert 'mine.png' in {path.name for path in written}


def test_a_new_optimizer_is_a_reader_and_what_is_known_of_it(tmp_path, monkeypatch):
    """One whose steps have length η, so that w*² = η/2λ and Δ* = √(2ηλ)."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('mmengine')
    from mmengine.registry import OPTIMIZERS
    from schedules import STEP, config_of

    from smd_mmdet import SphericalMotionMonitor, theory
    from smd_mmdet.checks import check
    from smd_mmdet.monitor import readers
    from smd_mmdet.plan import plan
    from smd_mmdet.records import RecordWriter, read_records
    from smd_mmdet.report import write_report

    class UnitSGD(torch.optim.Optimizer):
        def __init__(self, params, lr, weight_decay):
            super().__init__(params, dict(lr=lr, weight_decay=weight_decay))

        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                for w in group['params']:
                    w.mul_(1 - group['lr'] * group['weight_decay'])
                    w.sub_(w.grad / w.grad.norm(), alpha=group['lr'])

    class UnitReader(readers.DisplacementReader):
        theory = 'unit'

    known = theory.Theory('UnitSGD', lambda lr, wd, _: 2 * lr * wd)
    monkeypatch.setitem(theory.THEORIES, 'unit', known)
    monkeypatch.setitem(readers.READERS, UnitSGD, UnitReader)
    monkeypatch.setitem(OPTIMIZERS.module_dict, 'UnitSGD', UnitSGD)

    settings = dict(lr=0.01, weight_decay=1.0)
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(400) / 20 * 0.005**0.5)
    optimizer = UnitSGD([weight], **settings)
    with SphericalMotionMonitor(optimizer, {'w': weight}, window=20) as monitor:
        for _ in range(1200):
            gradient, w = torch.randn(400), weight.detach()
            weight.grad = gradient - w * (gradient @ w) / (w @ w)
            optimizer.step()
        rows = monitor.collect()
    assert monitor.theory == 'unit'
    assert rows['angular_update_eq'] == pytest.approx(0.02**0.5)
    assert rows['angular_update_mean'][-10:] == pytest.approx(0.02**0.5, rel=0.02)
    layers = {'w': {'invariant': True}}
    RecordWriter(tmp_path, {'layers': layers, 'theory': 'unit'}).append(rows)
    [layer] = check(read_records(tmp_path)).layers
    assert layer.stages[-1].state == 'in equilibrium'
    page = next(
        p for p in write_report(tmp_path, None, False, []) if p.suffix == '.html'
    )
    assert 'UnitSGD' in page.read_text('utf-8')
    planned = plan(config_of([STEP], optimizer=dict(type='UnitSGD', **settings)), 100)
    assert planned['stages'][0]['angular_update_eq'] == pytest.approx(0.02**0.5)
    assert planned['verdict'].startswith('UnitSGD: Δ* is known')


def test_every_check_and_figure_has_its_words():
    from smd_mmdet.checks.assumptions import assumptions_of
    from smd_mmdet.checks.stage import CONCLUSIONS
    from smd_mmdet.checks.wanted import WANTED
    from smd_mmdet.report import figures, words
    from smd_mmdet.theory import THEORIES

    assumptions = set().union(*map(assumptions_of, THEORIES.values()))
    assert words.CHECKS.keys() == assumptions | CONCLUSIONS.keys() | {WANTED}
    assert words.FIGURES.keys() == figures.FIGURES.keys()
