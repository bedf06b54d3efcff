"""Runs the benchmarks one after another and writes docs/performance.md.

    python benchmarks/run_all.py [--threads N] [--out FILE]
    python benchmarks/run_all.py --only PART ... --out FILE [--threads N]

For a quiet machine; all of it takes about twelve minutes on two cores. --list names
the parts; some of them alone need a page of their own. A part that fails is named in
the page, and the exit code is 1.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from studies.origin import origin  # noqa: E402


@dataclass
class Limit:
    """How large a figure may be.

    Args:
        name: What the figure is.
        most: The largest value that is good.
        patterns: Where it stands in the output of a part, as the first group of a
            regular expression. Of two patterns the difference of what they find counts.
        share: What it is divided by.
    """

    name: str
    most: float
    patterns: tuple[str, ...]
    share: float = 1

    def verdict(self, output: str) -> str:
        """A line that says whether the limit is kept."""
        found = [re.search(pattern, output) for pattern in self.patterns]
        if None in found:
            return f'Not measured: {self.name}, at most {self.most:g}.'
        values = [float(match[1].replace(',', '')) for match in found]
        value = (values[0] - sum(values[1:])) / self.share
        word = 'Held' if value <= self.most else '**Missed**'
        return f'{word}: {self.name} {value:.3g}, at most {self.most:g}.'


@dataclass
class Part:
    """A section of the page.

    Args:
        title: Its heading.
        target: What is aimed at.
        command: Script and arguments; {threads} is filled in.
        data: Whether it needs drawn shapes.
        limits: What its figures may be.
    """

    title: str
    target: str
    command: str
    data: bool = False
    limits: tuple[Limit, ...] = ()


GRAM = r'\| gram \(C library\) \|[^|]+\|[^|]+\| ([\d.]+)'
PASS = (Limit('the pass, in plain reads of the same bytes,', 1.2, (GRAM,)),)
INSIDE = r'inside the monitor, .*\(([\d.]+)%\)'
PARTS = {
    'bandwidth-1': Part(
        'The pass over ResNet-50, one thread',
        'within 1.2 times a plain read of the same bytes',
        'bandwidth.py --threads 1 --rounds 25',
        limits=PASS,
    ),
    'bandwidth': Part(
        'The pass over ResNet-50, all threads',
        'within 1.2 times a plain read of the same bytes',
        'bandwidth.py --threads {threads} --rounds 25 --no-compile',
        limits=PASS,
    ),
    'bandwidth-small': Part(
        'The pass over the quickstart model',
        'calls, not bytes, are what costs here',
        'bandwidth.py --layers quickstart --threads 1 --rounds 100 --no-compile',
    ),
    'peer': Part(
        'Other ways to the same knowledge',
        'a step costs less than with each that also reads weights and updates at every '
        'step',
        'peer.py --threads {threads} --rounds 40',
    ),
    'host': Part(
        'Host time of a step, the pass left out',
        'at most 100 µs of 53 layers under SGD, at most 2 µs for each further one',
        'host_time.py --rounds 100',
        limits=(
            Limit('µs of 53 layers', 100, (r'\| cpu \| SGD \| 53 \| ([\d.]+)',)),
            Limit(
                'µs of a further layer',
                2,
                tuple(rf'\| cpu \| SGD \| {n} \| ([\d.]+)' for n in (153, 53)),
                share=100,
            ),
        ),
    ),
    'scaling': Part(
        'Against layers, parameters and processes',
        'proportional to bytes, not to layers',
        'scaling.py --threads {threads} --rounds 20',
    ),
    'distributed': Part(
        'What each process of data-parallel training pays',
        'reading falls with the number of processes, exchanging is small',
        'distributed.py --steps 100',
    ),
    'overhead': Part(
        'A training iteration of the quickstart',
        'at most 1 % of an iteration',
        'overhead.py --pairs 150 --threads {threads} --cfg-options data_root={data}/ '
        'train_dataloader.dataset.data_root={data}/',
        data=True,
        limits=(Limit('per cent of an iteration', 1, (INSIDE,)),),
    ),
    'coco': Part(
        "A training iteration of Mask R-CNN R50-FPN at COCO's size",
        'at most 0.5 % of an iteration on a CPU, 0.3 % on a GPU (2 % without Triton)',
        'overhead.py --coco --pairs 5 --warmup 1 --threads {threads}',
        limits=(Limit('per cent of an iteration', 0.5, (INSIDE,)),),
    ),
    'records': Part(
        'Records of 360,000 iterations',
        'under 100 MB; the report in 15 s and 600 MB',
        'record_scale.py',
        limits=(
            Limit('MB of records', 100, (r'\| MB, merged \| ([\d.,]+)',)),
            Limit('s of the report', 15, (r'smd report, .*\| ([\d.]+) \(',)),
            Limit('MB of the report', 600, (r'smd report, .*\| [\d.]+ \((\d+)\)',)),
        ),
    ),
    'soak': Part(
        'Memory over 100,000 iterations', 'flat', 'soak.py --iterations 100000'
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=PARTS, metavar='PART')
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--out', type=Path, metavar='FILE')
    args = parser.parse_args()
    if args.list:
        print('\n'.join(f'{name}: {part.title}' for name, part in PARTS.items()))
        return 0
    if args.only and not args.out:
        parser.error('--only needs --out: the page of all parts stays as it is')
    if not list(ROOT.glob('smd_mmdet/monitor/kernels/_fused*.so')):
        print(
            'warning: the C library is not built in this checkout, the slower way is '
            'measured (python -m pip install -e . builds it)',
            file=sys.stderr,
        )
    out = args.out or ROOT / 'docs' / 'performance.md'
    lines = [
        '# Performance',
        '',
        origin('python benchmarks/run_all.py'),
        '',
        'Every figure was measured by the script that its section names. Nothing here '
        'is part of the tests. On a machine with '
        'a GPU `bash benchmarks/gpu_check.sh` measures what can be measured there; '
        'what an H100 showed is [in the page on GPUs](gpu.md#measured-on-an-h100).',
    ]
    failed = []
    for name in args.only or PARTS:
        part = PARTS[name]
        began = time.perf_counter()
        output, fine = run(part, args.threads)
        if not fine:
            failed.append(name)
        seconds = time.perf_counter() - began
        print(f'{name}: {"done" if fine else "FAILED"} in {seconds:.0f} s', flush=True)
        script = part.command.split()[0]
        lines += ['', f'## {part.title}', '', f'Target: {part.target}.', '']
        lines += [output, '']
        for limit in part.limits:
            lines += [limit.verdict(output), '']
        lines += [f'(`benchmarks/{script}`, {seconds:.0f} s)']
        # Written each time: an interrupted call keeps what is done.
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text('\n'.join(lines) + '\n')
    if failed:
        print(f'error: failed: {", ".join(failed)}', file=sys.stderr)
    return int(bool(failed))


def run(part: Part, threads: int) -> tuple[str, bool]:
    """The output of a part, and whether it came to its end."""
    data = drawn_shapes() if part.data else ''
    script, *arguments = part.command.format(threads=threads, data=data).split()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', ROOT / 'benchmarks' / script, *arguments],
        env=os.environ | {'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip() or 'no message').splitlines()[-1]
        sys.stderr.write(done.stderr)
        return f'Failed: {last}', False
    # MMEngine logs to stdout before the tables.
    lines = done.stdout.strip().splitlines()
    start = next((i for i, line in enumerate(lines) if ' before it began.' in line), 0)
    return '\n'.join(lines[start:]), True


def drawn_shapes() -> Path:
    """The folder of a small data set, drawn once."""
    folder = ROOT / 'data' / 'shapes_benchmark'
    if not (folder / 'drawn').exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, '-m', 'smd_mmdet.cli', 'shapes', folder]
        command += ['--train', '100', '--val', '4']
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (folder / 'drawn').touch()
    return folder


if __name__ == '__main__':
    sys.exit(main())
