"""What runs survive: kills, full disks, damaged files, odd weights, hostile names.

    PYTHONPATH=. python benchmarks/reliability.py [--kills 50]

trains the tests' tiny model under each of these, and writes docs/reliability.md. It
ends with 1 if a case fails. tests/studies/test_reliability.py runs the same cases.
"""

import argparse
import contextlib
import html.parser
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from disturbed import (  # noqa: E402
    ended,
    fork,
    killed_run,
    log_of,
    plan_config,
    read_commands,
    rows_of,
    same_rows,
    same_weights,
    small_disk,
    smd,
    train,
)
from mmengine.registry import MODELS  # noqa: E402
from mmengine.visualization import Visualizer  # noqa: E402
from tiny import SCALE_INVARIANT, TinyNet  # noqa: E402
from torch import nn  # noqa: E402

from smd_mmdet import records  # noqa: E402
from smd_mmdet.engine import SettingError  # noqa: E402
from smd_mmdet.records import UNREADABLE  # noqa: E402


@dataclass
class Case:
    """Something that befalls a run.

    Args:
        group: Heading of the table it is in.
        title: What befalls the run.
        run: Takes an empty folder, returns what was seen; raises if that is wrong.
        slow: Whether it takes more than some seconds.
    """

    group: str
    title: str
    run: Callable[[Path], str]
    slow: bool = False

    @property
    def done(self) -> str:
        """What was done, in words."""
        return ' '.join(self.run.__doc__.split()).rstrip('.')


class CannotTest(Exception):
    """This machine does not allow the case; the message says what it lacks."""


CASES: list[Case] = []
KILLS = 50
WINDOWS_OF_A_RUN = [9, 19, 29, 39, 40, 50, 60]


def case(group: str, title: str, slow: bool = False):
    def add(run):
        CASES.append(Case(group, title, run, slow))
        return run

    return add


def ask(holds: object, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def windows(folder: Path) -> list[int]:
    return sorted(set(rows_of(folder)['iter'].tolist()))


def unchanged(runner, folder: Path, act=None, **changes) -> None:
    """The weights are those of the same run without SMDHook."""
    plain = train(folder / 'unmonitored', act, hook={}, **changes)
    ask(same_weights(runner, plain), 'the weights differ from those without SMDHook')


def commands_end(folder: Path, beside: Path, allowed: set[int], *names: str) -> str:
    """Exit codes of the commands; at most one line on stderr, none a traceback."""
    codes = []
    for name, command in read_commands(folder, beside).items():
        if names and name not in names:
            continue
        code, error = smd(*command)
        ask(code in allowed, f'smd {name} ends with {code}: {error}')
        ask(error.count('\n') == (code == 2), f'smd {name} writes: {error}')
        codes.append(f'{name} {code}')
    return ', '.join(codes)


# ------------------------------------------------------------------ kills


@case('Kills', 'kill -9 at random moments', slow=True)
def kills(folder: Path) -> str:
    """SIGKILL at random times and at random calls to the file system, in the middle
    of writing a part and of merging parts too; after each the run is resumed, and
    read all the time."""
    return killed_runs(folder, KILLS)


def killed_runs(folder: Path, number: int, per_run: int = 7) -> str:
    rng, total = random.Random(0), dict(kills=0, calls=0, polls=0, runs=0)
    settings = {
        'hook': dict(window=3),
        'default_hooks.checkpoint.interval': 5,
    }
    with patch.object(records, 'MERGE_AT', 4):
        whole = folder / 'whole'
        child = fork(lambda: train(whole, **settings))
        while (end := ended(child)) is None:
            time.sleep(0.05)
        ask(end == 0, 'the uninterrupted run fails')
        while total['kills'] < number:
            run = folder / f'run{total["runs"]}'
            wanted = min(per_run, number - total['kills'])
            counts = killed_run(run, rng, wanted, **settings)
            for key in ('kills', 'calls', 'polls'):
                total[key] += counts[key]
            total['runs'] += 1
            ask(same_rows(run, whole), 'the rows differ from an uninterrupted run')
            last = [torch.load(f / 'iter_60.pth', weights_only=False)['state_dict']
                    for f in (run, whole)]  # fmt: skip
            ask(all(torch.equal(last[0][k], last[1][k]) for k in last[1]),
                'the weights differ from an uninterrupted run')  # fmt: skip
    return (
        f'{total["kills"]} kills over {total["runs"]} runs, {total["calls"]} of them '
        f'at a call to the file system; {total["polls"]} reads in between, none failed '
        'or showed a row twice; rows and weights at the end equal those of an '
        'uninterrupted run, bit for bit'
    )


# ------------------------------------------------------------------ disks


@case('Disks', 'disk full')
def disk_full(folder: Path) -> str:
    """`WORK_DIR/smd` is a file system of 48 KiB, made larger before iteration 50."""
    smd_folder = folder / 'run' / 'smd'
    with contextlib.ExitStack() as stack:
        try:
            remount = stack.enter_context(small_disk(smd_folder, '48k'))
        except PermissionError as error:
            raise CannotTest(str(error)) from None
        runner = train(
            folder / 'run',
            lambda runner: remount('size=10m'),
            at=49,
            hook=dict(window=2),
        )
        log, got = log_of(runner), windows(folder / 'run')
    ask('No space left on device' in log, 'no warning')
    ask(runner.iter == 60, 'training stopped')
    ask(got[-1] == 60 and len(got) >= 30, f'rows are missing: {got}')
    warned = log.count('records cannot be written')
    return f'{warned} warnings; training went on; all {len(got)} windows are there'


@case('Disks', 'disk full, injected')
def disk_full_injected(folder: Path) -> str:
    """`OSError(ENOSPC)` from writing a part, three times in a row."""
    write, calls = records.pq.write_table, iter(range(1000))

    def full(*args, **kwargs):
        if 2 <= next(calls) < 5:
            raise OSError(28, 'No space left on device')
        return write(*args, **kwargs)

    with patch.object(records.pq, 'write_table', full):
        runner = train(folder)
    ask('No space left' in log_of(runner), 'no warning')
    ask(windows(folder) == WINDOWS_OF_A_RUN, 'rows are missing')
    unchanged(runner, folder)
    return 'warned; training went on with the same weights; every row is there'


@case('Disks', 'read-only folder')
def read_only(folder: Path) -> str:
    """`WORK_DIR/smd` is mounted read-only from the start, writable from iteration 50
    on."""
    with contextlib.ExitStack() as stack:
        try:
            remount = stack.enter_context(small_disk(folder / 'run' / 'smd', '10m'))
        except PermissionError as error:
            raise CannotTest(str(error)) from None
        remount('ro')
        runner = train(folder / 'run', lambda runner: remount('rw'), at=49)
        log, got = log_of(runner), windows(folder / 'run')
    ask('Read-only file system' in log, 'no warning')
    ask(got == WINDOWS_OF_A_RUN, f'rows are missing: {got}')
    return 'warned; training went on; every row is there'


@case('Disks', 'records folder that is a file')
def a_file_in_the_way(folder: Path) -> str:
    """`WORK_DIR/smd` is a file throughout."""
    (folder / 'smd').write_text('mine')
    runner = train(folder)
    ask('records cannot be written' in log_of(runner), 'no warning')
    ask((folder / 'smd').read_text() == 'mine', 'the file was changed')
    codes = (
        commands_end(folder, folder / 'x', {2}, 'check') if make(folder / 'x') else 0
    )
    return f'warned; training went on; the file is as it was; {codes}'


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@case('Disks', 'records deleted')
def records_deleted(folder: Path) -> str:
    """`WORK_DIR/smd` is deleted before iteration 31."""
    runner = train(folder, lambda runner: shutil.rmtree(folder / 'smd'))
    ask(windows(folder) == [39, 40, 50, 60] or windows(folder) == [29, 39, 40, 50, 60],
        f'windows {windows(folder)}')  # fmt: skip
    unchanged(runner, folder)
    return (
        'the folder is made again and has every row from then on; training went on '
        'with the same weights'
    )


@case('Disks', 'WORK_DIR deleted')
def work_dir_deleted(folder: Path) -> str:
    """The whole folder is deleted before iteration 31. MMEngine's own LocalVisBackend
    does not survive that, so there is none."""
    run = folder / 'run'
    runner = train(
        run,
        lambda runner: shutil.rmtree(run),
        visualizer=dict(type='Visualizer', vis_backends=None),
    )
    ask(runner.iter == 60, 'training stopped')
    ask(windows(run)[-3:] == [40, 50, 60], f'windows {windows(run)}')
    return 'training went on; rows from then on are there'


@case('Disks', 'Visualizer that fails')
def visualizer_fails(folder: Path) -> str:
    """`add_scalars` raises whenever it is given scalars of ours."""
    add = Visualizer.add_scalars

    def fail(self, values, *args, **kwargs):
        if any(key.startswith('smd/') for key in values):
            raise ConnectionError('no route to host')
        return add(self, values, *args, **kwargs)

    with patch.object(Visualizer, 'add_scalars', fail):
        runner = train(folder)
    ask(log_of(runner).count('no route to host') == 1, 'not warned once')
    ask(windows(folder) == WINDOWS_OF_A_RUN, 'rows are missing')
    return 'warned once; training went on; every row is there'


# ------------------------------------------------------------------ damaged records


def _rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _in_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 16] = bytes(16)
    path.write_bytes(data)


def _column(name: str, values: Callable[[int], list]):
    def change(table):
        index = table.column_names.index(name)
        return table.set_column(index, name, pa.array(values(table.num_rows)))

    return lambda path: _rewritten(path, change)


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    'not Parquet': lambda p: p.write_text('hello'),
    'truncated': lambda p: p.write_bytes(p.read_bytes()[:-100]),
    'empty': lambda p: p.write_bytes(b''),
    'zeros in its middle': _in_the_middle,
    'foreign Parquet': lambda p: pq.write_table(pa.table({'x': [1]}), p),
    'another schema version': lambda p: _rewritten(
        p,
        lambda t: t.replace_schema_metadata({'smd_mmdet': '{"schema_version": 99}'}),
    ),
    'metadata that are a list': lambda p: _rewritten(
        p, lambda t: t.replace_schema_metadata({'smd_mmdet': '[1]'})
    ),
    'no key column': lambda p: _rewritten(p, lambda t: t.drop_columns(['layer'])),
    'gaps in a key column': _column('iter', lambda n: [None] * n),
    'text in place of numbers': _column('weight_norm_mean', lambda n: ['a'] * n),
    'a folder in its place': _folder_instead,
}


def healthy(folder: Path) -> Path:
    """A run to damage copies of."""
    run = folder / 'healthy'
    if not run.exists():
        train(run)
    return run


@case('Damaged records', 'every command')
def commands_on_damaged_records(folder: Path) -> str:
    """`smd check`, `report`, `compare` and `plan --work-dir` on a part that is
    {damages}."""
    run = healthy(folder)
    for name, damage in DAMAGES.items():
        hurt = folder / name.replace(' ', '-')
        shutil.copytree(run, hurt)
        parts = sorted((hurt / 'smd').glob('*.parquet'))
        damage(parts[0])
        before = parts[0].is_file() and parts[0].read_bytes()
        for command, argv in read_commands(hurt, run).items():
            code, error = smd(*argv)
            ask(code == 2 and error.count('\n') == 1, f'{name}, {command}: {error}')
            ask(parts[0].name in error, f'{name}, {command}: no name in: {error}')
        ask(before == (parts[0].is_file() and parts[0].read_bytes()), 'it was changed')
    return f'{len(DAMAGES)} × 4 times one line that names the part, exit code 2'


@case('Damaged records', 'missing columns, no rows, no parts')
def commands_on_incomplete_records(folder: Path) -> str:
    """The same commands where a measured column, all rows, or all parts are missing,
    or the folder is."""
    run = healthy(folder)

    def without_column(path):
        _rewritten(path, lambda t: t.drop_columns(['unit_h_mean', 'weight_norm_mean']))

    for i, change in enumerate(
        (
            without_column,
            lambda p: _rewritten(p, lambda t: t.slice(0, 0)),
            lambda p: p.unlink(),
            lambda p: shutil.rmtree(p.parent, ignore_errors=True),
            lambda p: shutil.rmtree(p.parent.parent, ignore_errors=True),
        )
    ):
        hurt = folder / f'incomplete{i}'
        shutil.copytree(run, hurt)
        for part in (hurt / 'smd').glob('*.parquet'):
            change(part)
        commands_end(hurt, run, {2})
    return '5 × 4 times one line, exit code 2'


@case('Damaged records', 'resume')
def resume_over_damaged_records(folder: Path) -> str:
    """One part of a run cut at iteration 25 is {damages}, then the run is resumed."""
    first = folder / 'first'
    train(first, max_iters=25)
    for name, damage in DAMAGES.items():
        run = folder / name.replace(' ', '-')
        shutil.copytree(first, run)
        [part] = (run / 'smd').glob('*.parquet')
        damage(part)
        content = part.is_file() and part.read_bytes()
        runner = train(run, resume=True, load_from=str(run / 'iter_25.pth'))
        ask(runner.iter == 60, f'{name}: training stopped')
        ask('cannot be read' in log_of(runner), f'{name}: no warning')
        [kept] = (run / UNREADABLE).iterdir()
        ask(content == (kept.is_file() and kept.read_bytes()), f'{name}: not kept')
        ask(windows(run)[-3:] == [40, 50, 60], f'{name}: {windows(run)}')
    return (
        f'{len(DAMAGES)} times warned; the part is in `{UNREADABLE}`, byte for byte; '
        'training went on, and the run can be read'
    )


for _run in (commands_on_damaged_records, resume_over_damaged_records):
    _run.__doc__ = _run.__doc__.format(damages=', '.join(DAMAGES))


# ------------------------------------------------------------------ odd weights


def weight(runner, name: str = SCALE_INVARIANT[0]) -> nn.Parameter:
    return dict(runner.model.named_parameters())[name]


def survives(folder: Path, act, allowed: set[int] = frozenset({0, 1}), **changes):
    """Train, compare with the unmonitored run, and let every command read it."""
    beside = healthy(folder)
    run = folder / 'run'
    runner = train(run, act, **changes)
    ask(runner.iter == 60, 'training stopped')
    ask('monitoring stopped' not in log_of(runner), 'monitoring stopped')
    unchanged(runner, folder, act, **changes)
    return runner, commands_end(run, beside, allowed)


def states(folder: Path) -> str:
    """The states that `smd check` gives the layers at the end."""
    from smd_mmdet.checks import check
    from smd_mmdet.records import read_records

    report = check(read_records(folder / 'run'))
    found = (layer.stages[-1].state for layer in report.layers)
    return ', '.join(dict.fromkeys(found))


def _spoil(value: float):
    def act(runner):
        weight(runner).register_hook(lambda grad: grad * value)

    return act


@case('Odd weights', 'NaN gradients')
def nan_gradients(folder: Path) -> str:
    """The gradient of one layer is NaN from iteration 31 on."""
    _, codes = survives(folder, _spoil(float('nan')))
    ask('diverged' in states(folder), states(folder))
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@case('Odd weights', 'infinite gradients')
def infinite_gradients(folder: Path) -> str:
    """The gradient of one layer is infinite from iteration 31 on."""
    _, codes = survives(folder, _spoil(float('inf')))
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@case('Odd weights', 'infinite weights')
def infinite_weights(folder: Path) -> str:
    """One weight is infinite at iteration 31."""

    def act(runner):
        weight(runner).data.view(-1)[0] = float('inf')

    _, codes = survives(folder, act)
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@case('Odd weights', 'zero weights')
def zero_weights(folder: Path) -> str:
    """All weights of one layer are set to zero before iteration 31."""
    _, codes = survives(folder, lambda runner: weight(runner).data.zero_())
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@case('Odd weights', 'all frozen')
def all_frozen(folder: Path) -> str:
    """No parameter of the model requires a gradient."""

    class Frozen(TinyNet):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.requires_grad_(False)

    MODELS.register_module(name='Frozen', module=Frozen, force=True)
    return refused(lambda: train(folder, **{'model.type': 'Frozen'}), 'no weight')


def refused(action: Callable[[], object], words: str) -> str:
    try:
        with patch.object(TinyNet, 'train_step', side_effect=RuntimeError('trained')):
            action()
    except SettingError as error:
        ask(words in str(error), str(error))
        return f'refused before the first iteration: “{str(error).splitlines()[0]}”'
    raise AssertionError('it was not refused')


# ------------------------------------------------------------------ optimizers


@case('Optimizers', 'parameter group added')
def group_added(folder: Path) -> str:
    """`add_param_group` with a new parameter and another rate, before iteration 31."""

    def act(runner):
        extra = nn.Parameter(torch.zeros(2))
        runner.optim_wrapper.optimizer.add_param_group({'params': [extra], 'lr': 9.0})

    # MMEngine's schedulers do not know the new group.
    _, codes = survives(folder, act, param_scheduler=None)
    ask(windows(folder / 'run') == [10, 20, 30, 40, 50, 60], 'a stage was made up')
    return f'same weights; no stage begins by it; {codes}'


@case('Optimizers', 'layer frozen')
def layer_frozen(folder: Path) -> str:
    """`requires_grad_(False)` on one measured layer before iteration 31."""
    _, codes = survives(folder, lambda runner: weight(runner).requires_grad_(False))
    rows = rows_of(folder / 'run')
    late = rows[(rows['layer'] == SCALE_INVARIANT[0]) & (rows['iter'] > 40)]
    ask((late['count'] == 0).all(), 'iterations without a step are counted')
    return f'same weights; its later rows count no iteration; {codes}'


@case('Optimizers', 'layer taken out of the optimizer')
def layer_taken_out(folder: Path) -> str:
    """One measured layer is removed from its parameter group before iteration 31."""

    def act(runner):
        gone = weight(runner)
        for group in runner.optim_wrapper.optimizer.param_groups:
            group['params'] = [p for p in group['params'] if p is not gone]
        runner.optim_wrapper.optimizer.state.pop(gone)  # else torch cannot save it

    _, codes = survives(folder, act)
    rows = rows_of(folder / 'run')
    late = rows[(rows['layer'] == SCALE_INVARIANT[0]) & (rows['iter'] > 40)]
    ask((late['count'] == 0).all(), 'it is said to move')
    return f'same weights; its later rows count no iteration; {codes}'


@case('Optimizers', 'module taken out of the model')
def module_taken_out(folder: Path) -> str:
    """The first convolution and its norm become identities before iteration 31."""

    def act(runner):
        layers = runner.model.layers
        layers[0], layers[1] = nn.Identity(), nn.Identity()
        layers[3] = nn.Conv2d(3, 6, 3, bias=False)

    _, codes = survives(folder, act)
    return f'same weights; {codes}'


def _replaced(make_optimizer):
    def act(runner):
        runner.optim_wrapper.optimizer = make_optimizer(runner)

    return act


@case('Optimizers', 'optimizer replaced')
def optimizer_replaced(folder: Path) -> str:
    """`optim_wrapper.optimizer` is another SGD from iteration 31 on."""

    def make_optimizer(runner):
        return torch.optim.SGD(
            runner.model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
        )

    runner, codes = survives(folder, _replaced(make_optimizer), param_scheduler=None)
    ask('optimizer was replaced' in log_of(runner), 'no warning')
    rows = rows_of(folder / 'run')
    late = rows[rows['iter'] > 30]
    ask(set(late['lr']) == {0.05} and (late['count'] == 10).all(), 'rows are missing')
    return f'warned; measured on at the new one, no iteration missing; {codes}'


@case('Optimizers', 'optimizer replaced by another kind')
def optimizer_of_another_kind(folder: Path) -> str:
    """`optim_wrapper.optimizer` is AdamW from iteration 31 on."""

    def make_optimizer(runner):
        return torch.optim.AdamW(runner.model.parameters(), lr=1e-3, weight_decay=0.1)

    runner, codes = survives(folder, _replaced(make_optimizer), param_scheduler=None)
    ask('optimizer was replaced' in log_of(runner), 'no warning')
    late = rows_of(folder / 'run').query('iter > 30')
    expected = (2 * 1e-3 * 0.1 * 0.1 / 1.9) ** 0.5
    ask(np.allclose(late['angular_update_eq'], expected), "not AdamW's Δ*")
    return f"warned; measured on, with AdamW's Δ*; {codes}"


@case('Optimizers', 'optimizer replaced by one without the layers')
def optimizer_without_the_layers(folder: Path) -> str:
    """`optim_wrapper.optimizer` has only the classifier from iteration 31 on."""

    def make_optimizer(runner):
        return torch.optim.SGD(runner.model.layers[8].parameters(), lr=0.05)

    act = _replaced(make_optimizer)
    runner = train(folder, act, param_scheduler=None)
    ask('monitoring stopped at iteration 31' in log_of(runner), 'no warning')
    ask(windows(folder) == [10, 20, 30], 'rows are missing')
    unchanged(runner, folder, act, param_scheduler=None)
    return 'warned that monitoring stopped; same weights; rows until then are there'


@case('Optimizers', 'learning rate 0')
def lr_zero(folder: Path) -> str:
    """A run with lr=0; `smd plan` of a config with lr=0, and with gamma=0."""
    _, codes = survives(folder, None, **{'optim_wrapper.optimizer.lr': 0.0})
    ask(states(folder) == 'learning rate 0', states(folder))
    told = []
    for option in ('lr=0.0, momentum', 'lr=0.1, momentum'):
        config = plan_config(folder)
        text = config.read_text().replace('lr=0.1, momentum', option)
        config.write_text(text.replace('gamma=0.1', 'gamma=0.0'))
        code, error = smd('plan', config)
        ask(code in (0, 1, 2) and error.count('\n') == (code == 2), error)
        told.append(f'plan {code}')
    return f'states: {states(folder)}; {codes}; {", ".join(told)}'


@case('Optimizers', 'weight decay 0')
def decay_zero(folder: Path) -> str:
    """A run with weight_decay=0."""
    _, codes = survives(folder, None, **{'optim_wrapper.optimizer.weight_decay': 0.0})
    ask(states(folder) == 'no weight decay', states(folder))
    return f'states: {states(folder)}; {codes}'


@case('Optimizers', 'momentum changed')
def momentum_changed(folder: Path) -> str:
    """Momentum is 0.5 from iteration 31 on, and 0 in a second run."""
    told = []
    for momentum in (0.5, 0.0):

        def act(runner, momentum=momentum):
            for group in runner.optim_wrapper.optimizer.param_groups:
                group['momentum'] = momentum

        run = make(folder / str(momentum))
        _, codes = survives(run, act)
        rows = rows_of(run / 'run')
        new = rows[rows['iter'] > 30]
        ask(set(new['momentum']) == {momentum}, 'windows mix two momenta')
        ask(new['stage'].min() > rows[rows['iter'] <= 30]['stage'].max(), 'no stage')
        told.append(codes)
    return f'a stage begins with it; same weights; {told[0]}'


# ------------------------------------------------------------------ two runs


@case('Two runs', 'in one WORK_DIR at once')
def two_runs(folder: Path) -> str:
    """A second process trains in the WORK_DIR of a run that is going on; then the
    first is killed, and a third resumes."""
    run, ready = folder / 'run', folder / 'ready'

    def wait(runner):
        ready.write_text('')
        time.sleep(600)

    child = fork(lambda: train(run, wait, at=27))
    while not ready.exists():
        ask(ended(child) is None, 'the first run fails')
        time.sleep(0.05)
    before = {p: p.read_bytes() for p in (run / 'smd').iterdir()}
    try:
        seen = refused(lambda: train(run), f'process {child} on')
        ask(before == {p: p.read_bytes() for p in (run / 'smd').iterdir()}, 'touched')
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    seen = seen.replace(str(run), 'WORK_DIR')
    seen = re.sub(r'process \d+ on [\w.-]+', 'process PID on HOST', seen)
    train(run, resume=True, load_from=str(run / 'iter_25.pth'))
    ask(same_rows(run, healthy(folder)), 'rows differ from an uninterrupted run')
    return f'{seen}; the lock of the killed run is no obstacle to the resume'


# ------------------------------------------------------------------ names


NAMES = (
    '<script>alert(1)</script>',
    '"quoted" and \'single\'',
    'a/b\\c',
    '100 %s {x} {{title}}',
    '[red]rich[/red]',
    '$x_{1}^',
    '_hidden',
    'schön 畳み込み 🙂',
    'two\nlines\tand tab',
    '-leading',
    'long' * 60,
)


class Named(TinyNet):
    """A norm convolution under each of the odd names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name in NAMES:
            block = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
            self.add_module(name, block)

    def forward(self, images, labels, mode='tensor'):
        for name in NAMES:
            images = images + getattr(self, name)(images)
        return super().forward(images, labels, mode)


class Tags(html.parser.HTMLParser):
    """Tags of a page, and its text outside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@case('Names', 'layers with odd names')
def odd_names(folder: Path) -> str:
    """Layers named with a slash, blanks, `<script>`, quotes, %, rich and TeX markup,
    unicode, line breaks, a leading dash, and 240 characters."""
    MODELS.register_module(name='Named', module=Named, force=True)
    run, out = folder / 'run<script>', folder / 'out'
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    visualizer = dict(type='Visualizer', vis_backends=backends)
    runner = train(run, **{'model.type': 'Named'}, visualizer=visualizer)
    ask('monitoring stopped' not in log_of(runner), 'monitoring stopped')
    measured = {name for name in rows_of(run)['layer'] if name not in SCALE_INVARIANT}
    ask(measured == {f'{name}.0.weight' for name in NAMES}, f'not all: {measured}')
    for line in log_of(runner).splitlines():
        # MMEngine's own list of parameters aside.
        broken = line.startswith('lines') and 'torch.Size' not in line
        ask(not broken, f'a name breaks a line of the log: {line}')
    [scalars] = run.glob('*/vis_data/scalars.json')
    shown = {
        key for line in scalars.read_text().splitlines() for key in json.loads(line)
    }
    ask({f'smd/cosine/{name}.0.weight' for name in NAMES} <= shown, 'scalars')
    for argv in (
        ('check', run, '--verbose'),
        ('check', run, '--json'),
        ('compare', healthy(folder), run, '-o', folder / 'compare'),
        ('plan', plan_config(folder), '--work-dir', run),
    ):
        code, error = smd(*argv)
        ask(code in (0, 1) and not error, f'{argv}: {code} {error}')
    chosen = [f'--layer={name}.0.weight' for name in NAMES[:8]]
    code, error = smd('report', run, '-o', out, '--svg', *chosen)
    ask(code == 0 and not error, f'report: {code} {error}')
    ask(all(p.parent == out and p.name.isascii() for p in out.iterdir()), 'paths')
    page = (out / 'report.html').read_text('utf-8')
    tags = Tags()
    tags.feed(page)
    scripts = [attrs for tag, attrs in tags.tags if tag == 'script']
    plain = Tags()
    healthy_page = folder / 'plain'
    smd('report', healthy(folder), '-o', healthy_page)
    plain.feed((healthy_page / 'report.html').read_text('utf-8'))
    expected = [attrs for tag, attrs in plain.tags if tag == 'script']
    ask(scripts == expected, 'the page has another script')
    return (
        f'{len(NAMES)} layers measured, shown and reported; the page has the scripts '
        'of any other page; no file is named after a layer'
    )


# ------------------------------------------------------------------ settings


SETTINGS: tuple[tuple[str, dict, dict], ...] = (
    *(('window', dict(window=v), {}) for v in (0, -1, True, 1.5, '50', None)),
    *(('include', dict(include=v), {}) for v in (3, [3], ['('], {'a': 1})),
    *(('exclude', dict(exclude=v), {}) for v in ('nothing.here', [None], 1.0)),
    *(('verify', dict(verify=v), {}) for v in ('yes', 1, None)),
    *(('visualize', dict(visualize=v), {}) for v in ('no', 0)),
    *(('granularity', dict(granularity=v), {}) for v in ('atom', None, 3)),
    *(('report', dict(report=v), {}) for v in ('always', 1.5, None)),
    *(
        (key, {}, {'optim_wrapper.paramwise_cfg': {key: v}})
        for key in ('angular_update', 'scale_invariant_decay_mult')
        for v in ('fast', -1, float('nan'), float('inf'), True, [1])
    ),
    ('angular_update', {}, {'optim_wrapper.paramwise_cfg': {'angular_update': 3.0}}),
    ('include', {}, {'optim_wrapper.paramwise_cfg': {'include': 3}}),
    ('exclude', {}, {'optim_wrapper.paramwise_cfg': {'exclude': ['nothing.here']}}),
)


@case('Settings', 'hostile settings of SMDHook and its constructor')
def hostile_settings(folder: Path) -> str:
    """Numbers as text, booleans as numbers, NaN, infinity, None, unknown names."""
    faults = []
    for i, (key, hook, changes) in enumerate(SETTINGS):
        hook = hook or dict(window=10)
        run = folder / str(i)
        try:
            refused(lambda run=run, h=hook, c=changes: train(run, hook=h, **c), key)
        except Exception as fault:
            faults.append(f'{hook} {changes}: {fault!r}')
    ask(not faults, '\n'.join(faults))
    return f'{len(SETTINGS)} times refused before the first iteration, naming the key'


CONFIGS: dict[str, str] = {
    'empty': '',
    'only a comment': '# nothing',
    'syntax error': 'a = (\n',
    'raises': 'raise RuntimeError("no")',
    'exits': 'import sys\nsys.exit(3)',
    'null byte': 'a = 1\0',
    'inherits itself': "_base_ = ['./inherits-itself.py']",
    'no such base': "_base_ = ['./nowhere.py']",
    'base is a number': '_base_ = 3',
    'model is a number': 'model = 3',
    'model of no such type': "model = dict(type='NoSuchThing')\n",
    'model without a type': 'model = dict(a=1)\n',
}
# What a planned config says, changed; the text after it wins.
CHANGES: dict[str, str] = {
    'lr is text': "optim_wrapper['optimizer']['lr'] = 'fast'",
    'lr is negative': "optim_wrapper['optimizer']['lr'] = -0.1",
    'lr is NaN': "optim_wrapper['optimizer']['lr'] = float('nan')",
    'lr is None': "optim_wrapper['optimizer']['lr'] = None",
    'lr is huge': "optim_wrapper['optimizer']['lr'] = 1e300",
    'lr is infinite': "optim_wrapper['optimizer']['lr'] = float('inf')",
    'lr is a list': "optim_wrapper['optimizer']['lr'] = [0.1]",
    'weight decay is negative': "optim_wrapper['optimizer']['weight_decay'] = -1",
    'weight decay is text': "optim_wrapper['optimizer']['weight_decay'] = 'much'",
    'weight decay is None': "optim_wrapper['optimizer']['weight_decay'] = None",
    'weight decay is NaN': "optim_wrapper['optimizer']['weight_decay'] = float('nan')",
    'momentum is 1': "optim_wrapper['optimizer']['momentum'] = 1.0",
    'momentum is text': "optim_wrapper['optimizer']['momentum'] = 'a'",
    'optimizer is a list': "optim_wrapper['optimizer'] = [1]",
    'optim_wrapper is a number': 'optim_wrapper = 3',
    'optim_wrapper is None': 'optim_wrapper = None',
    'paramwise_cfg is a list': "optim_wrapper['paramwise_cfg'] = [1]",
    'custom_keys is a list': "optim_wrapper['paramwise_cfg'] = dict(custom_keys=[1])",
    'lr_mult is text': "optim_wrapper['paramwise_cfg'] = "
    "dict(custom_keys=dict(a=dict(lr_mult='x')))",
    'milestones are text': "param_scheduler['milestones'] = 'abc'",
    'milestones is a number': "param_scheduler['milestones'] = 4",
    'gamma is text': "param_scheduler['gamma'] = 'x'",
    'scheduler of no such type': "param_scheduler['type'] = 'NoSuchLR'",
    'scheduler is a number': 'param_scheduler = 3',
    'schedulers are numbers': 'param_scheduler = [1, 2]',
    'scheduler without type': "param_scheduler.pop('type')",
    'max_iters is text': "train_cfg['max_iters'] = 'many'",
    'max_iters is negative': "train_cfg['max_iters'] = -5",
    'max_iters is None': "train_cfg['max_iters'] = None",
    'max_iters is NaN': "train_cfg['max_iters'] = float('nan')",
    'max_iters is 0': "train_cfg['max_iters'] = 0",
    'max_iters is a fraction': "train_cfg['max_iters'] = 1.5",
    'train_cfg is a list': 'train_cfg = [1]',
    'no train_cfg': 'del train_cfg',
    'train_dataloader is a list': 'train_dataloader = [1]',
    'batch_size is text': "train_dataloader['batch_size'] = 'a'",
    'accumulative_counts is 0': "optim_wrapper['accumulative_counts'] = 0",
    'accumulative_counts is text': "optim_wrapper['accumulative_counts'] = 'a'",
    'accumulative_counts is huge': "optim_wrapper['accumulative_counts'] = 10**9",
    'auto_scale_lr is a list': 'auto_scale_lr = [1]',
    'by_epoch is text': "train_cfg = dict(by_epoch=True, max_epochs='a')",
    'model is a list': 'model = [1]',
    'backbone is text': "model = dict(backbone='resnet')",
    'frozen_stages is text': "model = dict(backbone=dict(frozen_stages='a'))",
}
# These can be planned; what they mean is for the plan to say.
SENSIBLE = {'milestones are unsorted': "param_scheduler['milestones'] = [40, 10, 10]"}


@case('Settings', 'hostile configs in `smd plan` and `smd audit`')
def hostile_configs(folder: Path) -> str:
    """Configs that are empty, broken, raise, exit, inherit themselves, or set rates,
    decays, milestones, lengths and whole sections to text, negative numbers, NaN, None
    and lists."""
    base, faults, count = plan_config(folder).read_text(), [], 0
    changed = CHANGES | SENSIBLE
    texts = CONFIGS | {name: f'{base}\n{text}' for name, text in changed.items()}
    for name, text in texts.items():
        path = folder / f'{name.replace(" ", "-")}.py'
        path.write_text(text)
        for command in ('plan',) if name in SENSIBLE else ('plan', 'audit'):
            allowed = {0, 1} if name in SENSIBLE else {2}
            try:
                code, error = smd(command, path)
            except BaseException as fault:
                faults.append(f'{name}: smd {command} raises {fault!r}')
                continue
            if code not in allowed or error.count('\n') != (code == 2):
                faults.append(f'{name}: smd {command} {code} {error}')
            count += 1
    ask(not faults, '\n'.join(faults))
    return f'{count} times one line on stderr and exit code 2'


# ------------------------------------------------------------------ the table


def page(results: list[tuple[Case, str, str]]) -> str:
    lines = [
        '# What runs survive',
        '',
        'Made by `PYTHONPATH=. python benchmarks/reliability.py`, which trains the',
        'tiny model of `tests/tiny.py` under each of these, and ends with 1 if a case',
        'fails. A command is followed by its exit code; “same weights” are those of',
        'the same run without SMDHook, bit for bit.',
    ]
    for group in dict.fromkeys(case.group for case, _, _ in results):
        lines += ['', f'## {group}', '']
        lines += [
            '| case | what was done | what was seen | verdict |',
            '|---|---|---|---|',
        ]
        lines += [
            f'| {_cell(case.title)} | {_cell(case.done)} | {_cell(seen)} | {verdict} |'
            for case, seen, verdict in results
            if case.group == group
        ]
    return '\n'.join(lines) + '\n'


def _cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', '\\|').replace('<', '&lt;')


def examine(case: Case) -> tuple[Case, str, str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return case, case.run(Path(folder)), 'survives'
        except CannotTest as why:
            return case, f'not tested: {why}', 'not tested'
        except Exception as fault:
            traceback.print_exc()
            return case, f'{type(fault).__name__}: {fault}', '**fails**'


def main() -> int:
    global KILLS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=KILLS)
    parser.add_argument('--only', help='cases whose name has this in it')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'reliability.md')
    args = parser.parse_args()
    KILLS = args.kills
    torch.set_num_threads(1)
    results = []
    for each in CASES:
        if args.only and args.only not in each.run.__name__:
            continue
        results.append(examine(each))
        _, seen, verdict = results[-1]
        print(f'{each.title}: {verdict}: {seen}', file=sys.stderr, flush=True)
    text = page(results)
    print(text)
    if not args.only:
        args.out.write_text(text)
    return int(any(verdict == '**fails**' for _, _, verdict in results))


if __name__ == '__main__':
    sys.exit(main())
