"""Runs the benchmarks one after another and writes docs/performance.md.

    python benchmarks/run_all.py [--threads N] [--out FILE]
    python benchmarks/run_all.py --only PART ... --out FILE [--threads N]

For a quiet machine; all of it takes about twelve minutes on two cores. --list names
the parts; some of them alone need a page of their own. A part that fails is named in
the page, and the exit code is 1.
"""

import argparse
import os
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
class Part:
    """A section of the page.

    Args:
        title: Its heading.
        target: What is aimed at.
        command: Script and arguments; {threads} is filled in.
    """

    title: str
    target: str
    command: str
    data: bool = False


PARTS = {
    'bandwidth-1': Part(
        'The pass over ResNet-50, one thread',
        'within 1.5 times a plain read of the same bytes',
        'bandwidth.py --threads 1 --rounds 25',
    ),
    'bandwidth': Part(
        'The pass over ResNet-50, all threads',
        'within 1.5 times a plain read of the same bytes',
        'bandwidth.py --threads {threads} --rounds 25 --no-compile',
    ),
    'bandwidth-small': Part(
        'The pass over the quickstart model',
        'calls, not bytes, are what costs here',
        'bandwidth.py --layers quickstart --threads 1 --rounds 100 --no-compile',
    ),
    'peer': Part(
        'Other ways to the same knowledge',
        'cheaper than all of them',
        'peer.py --threads {threads} --rounds 40',
    ),
    'host': Part(
        'Host time of a step, the pass left out',
        'at most 100 µs of 53 layers under SGD, at most 2 µs for each further one',
        'host_time.py --rounds 100',
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
        'at most 3 % of an iteration',
        'overhead.py --pairs 150 --threads {threads} --cfg-options data_root={data}/ '
        'train_dataloader.dataset.data_root={data}/',
        data=True,
    ),
    'coco': Part(
        "A training iteration of Mask R-CNN R50-FPN at COCO's size",
        'at most 0.5 % of an iteration on a CPU, 0.3 % on a GPU (2 % without Triton)',
        'overhead.py --coco --pairs 5 --warmup 1 --threads {threads}',
    ),
    'records': Part(
        'Records of 360,000 iterations',
        'none was set; the whole must stay usable',
        'record_scale.py',
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
        lines += [output, '', f'(`benchmarks/{script}`, {seconds:.0f} s)']
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
