"""CPU time, memory and page size of the commands that read a run of COCO's length.

    python benchmarks/report_scale.py [--iterations 360000] [--window 50] [--layers 69]
        [--against CHECKOUT] [--only check report] [--keep DIR] [--browser]

The records are synthetic: norms and angles as the theory forecasts them for the
schedule of the paper's COCO runs (rate ÷10 at 5/6 and 17/18 of the iterations), with
noise. Time is that of the processor, so that it can be read on a machine that others
use. With --against another checkout writes and reads its own records in turn with this
one: old against new in one run. With --browser a headless Chromium loads the page.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == '__main__' and '--write' not in sys.argv:
    sys.path.insert(0, str(ROOT))

from smd_mmdet import theory  # noqa: E402
from smd_mmdet.forecast import forecast  # noqa: E402
from smd_mmdet.records import MERGE_AT, RecordWriter  # noqa: E402

__all__ = ['Cost', 'cost_of', 'size_of', 'synthetic_parts', 'synthetic_run']

ITERATIONS = 360_000
WINDOW = 50
LAYERS = 69
DECAY, MOMENTUM = 1e-4, 0.9
CONFIG = """
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9,
    weight_decay=1e-4), clip_grad=dict(max_norm=35))
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[
    300_000, 340_000])]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=360_000)
train_dataloader = dict(batch_size=2, dataset=dict(type='CocoDataset'))
"""
# A command in a process of its own, which tells what it has cost.
PROGRAM = """
import json, re, resource, sys, time
began = time.perf_counter()
from smd_mmdet.cli import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which counts in the process that has started this one.
peak = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
print(json.dumps([code, used.ru_utime + used.ru_stime, peak / 1024,
    time.perf_counter() - began]), file=sys.stderr)
"""


def synthetic_run(
    work_dir: Path,
    layers: int = LAYERS,
    iterations: int = ITERATIONS,
    window: int = WINDOW,
) -> None:
    """Write the records of a long run, in parts as a run leaves them.

    Args:
        work_dir: Folder to make ``smd`` in.
        layers: Number of layers.
        iterations: Number of iterations.
        window: Iterations of a window.
    """
    writer = RecordWriter(work_dir, _metadata(_names(layers), iterations, window))
    for rows in synthetic_parts(layers, iterations, window):
        writer.append(rows)
        # A part stands for small ones that have been merged.
        writer.merge()


def _names(layers: int) -> list[str]:
    return [f'backbone.layer{i // 10}.{i % 10}.conv.weight' for i in range(layers)]


def synthetic_parts(
    layers: int = LAYERS,
    iterations: int = ITERATIONS,
    window: int = WINDOW,
    seed: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a long run, in as many windows at a time as a part has.

    Args:
        layers: Number of layers.
        iterations: Number of iterations.
        window: Iterations of a window.
        seed: Seed of the noise.

    Yields:
        Columns by name, as a monitor hands them over.
    """
    rng = np.random.default_rng(seed)
    drops = iterations * 5 // 6, iterations * 17 // 18
    lr = np.full(iterations, 0.02)
    lr[drops[0] : drops[1]], lr[drops[1] :] = 0.002, 0.0002
    lr[:1000] = np.linspace(2e-5, 0.02, 1000)
    last = np.arange(window, iterations + 1, window)
    level = rng.lognormal(np.log(0.05), 1.0, layers)
    ahead = forecast(
        lr,
        DECAY,
        MOMENTUM,
        norm=rng.uniform(0.8, 3, layers) * (100 * level) ** 0.25,
        unit_grad_sq=level,
        at=last - window // 2,
    )
    stage = np.searchsorted([1000, *drops], last) - 1
    for begin in range(0, len(last), MERGE_AT):
        part = slice(begin, begin + MERGE_AT)
        rows = _settings(_names(layers), last[part], lr, stage[part], window)
        forecasts = ahead.weight_norm[part], ahead.angular_update[part]
        yield rows | _measured(rows['lr'], level, *forecasts, rng)


def _metadata(names: Sequence[str], iterations: int, window: int) -> dict:
    """The facts about the run, which each part repeats."""
    facts = {
        name: {
            'invariant': True,
            'norm': name.replace('conv', 'bn'),
            'reason': f'normalized by {name.replace("conv.weight", "bn")}',
            'eps': 1e-5,
            'output_variance': 0.8963478326416,
        }
        for name in names
    }
    return {
        'theory': 'sgd',
        'clipping': None,
        'window': window,
        'max_iters': iterations,
        'processes': 8,
        'layers': facts,
        # As long as that of Mask R-CNN.
        'config': CONFIG + '# a comment\n' * 1000,
    }


def _settings(
    names: Sequence[str],
    last: np.ndarray,
    lr: np.ndarray,
    stage: np.ndarray,
    window: int,
) -> dict[str, np.ndarray]:
    """The columns of some windows that are not measured."""
    layers, rows = len(names), len(names) * len(last)
    shapes = np.empty(rows, dtype=object)
    shapes[:] = [(64, 64, 3, 3)] * rows
    return {
        'iter': np.repeat(last, layers),
        'count': np.full(rows, window),
        'layer': np.tile(np.array(names, object), len(last)),
        'shape': shapes,
        'lr': np.repeat(lr[last - 1], layers),
        'weight_decay': np.full(rows, DECAY),
        'momentum': np.full(rows, MOMENTUM),
        'stage': np.repeat(stage, layers),
    }


def _measured(
    lr: np.ndarray,
    level: np.ndarray,
    norm: np.ndarray,
    angle: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The columns of some windows that are measured, those of clipping among them."""
    h = level * rng.lognormal(-0.02, 0.2, norm.shape)
    nothing = np.full(norm.shape, np.nan)
    means = {
        'weight_norm': norm,
        'grad_norm': np.sqrt(h) / norm,
        'unit_grad_sq': h,
        'unit_h': h,
        'angular_update': angle * rng.lognormal(0, 0.05, norm.shape),
        'cosine': rng.normal(0, 1e-4, norm.shape),
        'momentum_norm': np.sqrt(h) / norm * 2,
        'update_sq': nothing,
        'update_cosine': nothing,
    }
    columns = {}
    for name, mean in means.items():
        share = 1e-4 if name == 'weight_norm' else 0.3
        spread = share * np.abs(mean) * rng.lognormal(0, 0.1, norm.shape)
        spread += 1e-5 * (name == 'cosine')
        columns[f'{name}_mean'] = mean.ravel()
        columns[f'{name}_var'] = (spread**2).ravel()
        columns[f'{name}_min'] = (mean - 2 * spread).ravel()
        columns[f'{name}_max'] = (mean + 3 * spread).ravel()
    columns['angular_update_eq'] = theory.angular_update(lr, DECAY, MOMENTUM)
    columns['weight_norm_eq'] = theory.equilibrium_norm(lr, DECAY, h.ravel(), MOMENTUM)
    columns['clipped_share'] = np.zeros(len(lr))
    columns['clip_coefficient_mean'] = np.ones(len(lr))
    columns['clipping_power'] = np.zeros(len(lr))
    return columns


def size_of(work_dir: Path) -> int:
    """Bytes of a run's records."""
    return sum(file.stat().st_size for file in work_dir.glob('smd/*.parquet'))


@dataclass(frozen=True)
class Cost:
    """What a command has cost.

    Args:
        busy: Seconds of the processor, imports included.
        peak: Most memory in MB.
        seconds: Seconds that went by.
    """

    busy: float
    peak: float
    seconds: float


def cost_of(*command: str | Path, checkout: Path = ROOT) -> Cost:
    """What a command of ``smd`` costs, in a process of its own.

    Args:
        command: The command and its arguments.
        checkout: Where the code is that runs it.

    Raises:
        RuntimeError: If it fails.
    """
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, *map(str, command)],
        env=os.environ | {'PYTHONPATH': str(checkout)},
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    try:
        code, *spent = json.loads(done.stderr.splitlines()[-1])
    except (IndexError, ValueError):
        code, spent = done.returncode, []
    if code not in (0, 1) or not spent:
        raise RuntimeError(f'smd {command[0]}: exit code {code}\n{done.stderr}')
    return Cost(*spent)


def commands_of(run: Path, other: Path, config: Path) -> dict[str, list[str | Path]]:
    """The commands that read records.

    Args:
        run: Folder of the run.
        other: Folder of the same records, to compare with.
        config: The run's config.
    """
    return {
        'check': ['check', run],
        'report': ['report', run, '-o', run / 'report'],
        'compare': ['compare', run, other, '-o', run / 'compare'],
        'plan': ['plan', config, '--work-dir', run],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--layers', type=int, default=LAYERS)
    parser.add_argument('--iterations', type=int, default=ITERATIONS)
    parser.add_argument('--window', type=int, default=WINDOW)
    parser.add_argument('--against', type=Path, metavar='CHECKOUT', help='the old code')
    parser.add_argument('--only', nargs='+', choices=commands_of(*[Path()] * 3))
    parser.add_argument('--keep', type=Path, help='folder for the run and its report')
    parser.add_argument('--browser', action='store_true', help='load the page as well')
    parser.add_argument('--write', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        synthetic_run(args.keep, args.layers, args.iterations, args.window)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        checkouts = {'new': ROOT}
        if args.against:
            checkouts = {'old': args.against.resolve(), **checkouts}
        for name, checkout in checkouts.items():
            write(folder / name, checkout, args)
        compare_costs(folder, checkouts, args)
        if args.browser:
            for name, (text, figures) in load_times(folder / 'new/report').items():
                print(f'{name}: text after {text:.2f} s, all drawn {figures:.2f} s')


def write(run: Path, checkout: Path, args: argparse.Namespace) -> None:
    """Write the records as the code of a checkout does."""
    command = [sys.executable, __file__, '--write', '--keep', run]
    for name in ('layers', 'iterations', 'window'):
        command += [f'--{name}', getattr(args, name)]
    environment = os.environ | {'PYTHONPATH': str(checkout)}
    subprocess.run(list(map(str, command)), env=environment, check=True)
    # A second run of the same records.
    shutil.copytree(run / 'smd', run.with_name(f'{run.name}-again') / 'smd')


def compare_costs(
    folder: Path, checkouts: dict[str, Path], args: argparse.Namespace
) -> None:
    """Print what records and commands cost with the code of each checkout."""
    from common import machine, table

    config = folder / 'config.py'
    config.write_text(CONFIG)
    rows = args.layers * (args.iterations // args.window)
    print(machine(), end='\n\n')
    print(f'{args.iterations:,} iterations in windows of {args.window}, ', end='')
    print(f'{args.layers} layers: {rows:,} rows', end='\n\n')
    sizes = {name: size_of(folder / name) for name in checkouts}
    lines = [['records, MB', *(f'{s / 1e6:.1f}' for s in sizes.values())]]
    lines.append(['bytes a row', *(f'{s / rows:.0f}' for s in sizes.values())])
    for command in args.only or commands_of(*[Path()] * 3):
        costs = []
        for name, checkout in checkouts.items():
            run = folder / name
            every = commands_of(run, folder / f'{name}-again', config)
            costs.append(cost_of(*every[command], checkout=checkout))
        lines.append([f'{command}, s of CPU', *(f'{c.busy:.1f}' for c in costs)])
        lines.append([f'{command}, peak MB', *(f'{c.peak:.0f}' for c in costs)])
    page = folder / 'new/report/report.html'
    if page.exists():
        lines.append(['page, MB', *[''] * (len(checkouts) - 1), _megabytes(page)])
    if len(checkouts) == 2:
        for line in lines:
            line.append(f'{float(line[2]) / float(line[1]):.2f}' if line[1] else '')
    ratio = ['new/old'] if len(checkouts) == 2 else []
    print(table(['', *checkouts, *ratio], lines))


def _megabytes(file: Path) -> str:
    return f'{file.stat().st_size / 1e6:.1f}'


def load_times(report: Path) -> dict[str, tuple[float, float]]:
    """Seconds until there is text, and until all figures are drawn."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for flag in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage'):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, Service(shutil.which('chromedriver')))
    times = {}
    script = (
        'return [performance.getEntriesByName("first-contentful-paint")[0]'
        '?.startTime ?? NaN, window.smdReady]'
    )
    try:
        browser.get('about:blank')
        time.sleep(1)
        for name in ('browser just started', 'again'):
            browser.get((report / 'report.html').resolve().as_uri())
            WebDriverWait(browser, 30).until(
                lambda b: b.execute_script('return window.smdReady')
            )
            times[name] = tuple(t / 1000 for t in browser.execute_script(script))
    finally:
        browser.quit()
    return times


if __name__ == '__main__':
    main()
