"""Time, memory and page size of `smd report` for a run of COCO's length.

    python benchmarks/report_scale.py [--layers 60] [--windows 7200] [--keep DIR]

The records are synthetic: norms and angles as the theory forecasts them for the
schedule of the paper's COCO runs (360k iterations, rate ÷10 at 300k and 340k), with
noise. With --browser a headless Chromium loads the page as well.
"""

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from smd_mmdet import theory
from smd_mmdet.forecast import forecast
from smd_mmdet.records import RecordWriter

ITERATIONS = 360_000
DECAY, MOMENTUM = 1e-4, 0.9


def synthetic_run(work_dir: Path, layers: int, windows: int, seed: int = 0) -> None:
    """Write the records of a long run.

    Args:
        work_dir: Folder to make ``smd`` in.
        layers: Number of layers.
        windows: Windows per layer.
        seed: Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    lr = np.full(ITERATIONS, 0.02)
    lr[300_000:340_000], lr[340_000:] = 0.002, 0.0002
    lr[:1000] = np.linspace(2e-5, 0.02, 1000)
    window = ITERATIONS // windows
    last = np.arange(1, windows + 1) * window
    level = rng.lognormal(np.log(0.05), 1.0, layers)
    ahead = forecast(
        lr,
        DECAY,
        MOMENTUM,
        norm=rng.uniform(0.8, 3, layers) * (100 * level) ** 0.25,
        unit_grad_sq=level,
        at=last - window // 2,
    )
    facts = {f'backbone.layer{i // 10}.{i % 10}.conv.weight': i for i in range(layers)}
    metadata = {
        'theory': 'sgd',
        'window': window,
        'max_iters': ITERATIONS,
        'layers': {name: {'invariant': True} for name in facts},
        'config': 'lr = 0.02\n' * 300,
    }
    shape = (windows, layers)
    rate = lr[last - 1]
    columns = {
        'iter': np.repeat(last, layers),
        'count': np.full(windows * layers, window),
        'layer': np.tile(np.array(list(facts), object), windows),
        'shape': [[64, 64, 3, 3]] * (windows * layers),
        'lr': np.repeat(rate, layers),
        'weight_decay': np.full(windows * layers, DECAY),
        'momentum': np.full(windows * layers, MOMENTUM),
        'stage': np.repeat(np.searchsorted([1000, 300_000, 340_000], last) - 1, layers),
    }
    h = level * rng.lognormal(-0.02, 0.2, shape)
    angle = ahead.angular_update * rng.lognormal(0, 0.05, shape)
    means = {
        'weight_norm': ahead.weight_norm,
        'grad_norm': np.sqrt(h) / ahead.weight_norm,
        'unit_grad_sq': h,
        'unit_h': h,
        'angular_update': angle,
        'cosine': rng.normal(0, 1e-4, shape),
        'momentum_norm': np.sqrt(h) / ahead.weight_norm * 2,
    }
    for name, mean in means.items():
        spread = 0.3 * np.abs(mean) + 1e-5 * (name == 'cosine')
        if name == 'weight_norm':
            spread = 1e-4 * mean
        columns[f'{name}_mean'] = mean.ravel()
        columns[f'{name}_var'] = (spread**2).ravel()
        columns[f'{name}_min'] = (mean - 2 * spread).ravel()
        columns[f'{name}_max'] = (mean + 3 * spread).ravel()
    columns['angular_update_eq'] = theory.angular_update(columns['lr'], DECAY, MOMENTUM)
    columns['weight_norm_eq'] = theory.equilibrium_norm(
        columns['lr'], DECAY, h.ravel(), MOMENTUM
    )
    RecordWriter(work_dir, metadata).append(columns)


def _report(work_dir: str, channel) -> None:
    began = time.perf_counter()
    from smd_mmdet.report import write_report

    paths = write_report(work_dir)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    channel.send((seconds, time.process_time(), peak, [str(path) for path in paths]))


def measure(work_dir: Path) -> tuple[float, float, float, list[Path]]:
    """Report in a process of its own.

    Args:
        work_dir: Folder of the run.

    Returns:
        Seconds with imports, seconds of CPU, peak memory in MB, the files written.
    """
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    process = context.Process(target=_report, args=(str(work_dir), theirs))
    process.start()
    theirs.close()
    seconds, busy, peak, paths = ours.recv()
    process.join()
    return seconds, busy, peak, [Path(path) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--layers', type=int, default=60)
    parser.add_argument('--windows', type=int, default=7200)
    parser.add_argument('--keep', type=Path, help='folder for the run and its report')
    parser.add_argument('--browser', action='store_true', help='load the page as well')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work_dir = args.keep or Path(temporary)
        synthetic_run(work_dir, args.layers, args.windows)
        seconds, busy, peak, paths = measure(work_dir)
        print(f'{args.layers} layers x {args.windows} windows')
        print(f'report: {seconds:.1f} s, {busy:.1f} s of CPU')
        print(f'peak memory: {peak:.0f} MB')
        for path in paths:
            print(f'{path.name}: {path.stat().st_size / 1e6:.2f} MB')
        page = next(path for path in paths if path.suffix == '.html')
        data = page.read_text('utf-8').split('id="data">')[1].split('</script>')[0]
        print(f'data in the page: {len(data) / 1e6:.2f} MB')
        if args.browser:
            for name, (text, figures) in load_times(page).items():
                print(f'{name}: text after {text:.2f} s, all drawn {figures:.2f} s')


def load_times(page: Path) -> dict[str, tuple[float, float]]:
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
            browser.get(page.resolve().as_uri())
            WebDriverWait(browser, 30).until(
                lambda b: b.execute_script('return window.smdReady')
            )
            times[name] = tuple(t / 1000 for t in browser.execute_script(script))
    finally:
        browser.quit()
    return times


if __name__ == '__main__':
    main()
