#!/usr/bin/env python3
"""Runs the tests on each stack of versions that is claimed, and writes docs/stacks.md.

    python3 tools/check_stacks.py FOLDER                  # all of them
    python3 tools/check_stacks.py FOLDER --only oldest newest
    python3 tools/check_stacks.py FOLDER --mended         # only what failed, once more
    python3 tools/check_stacks.py FOLDER --page           # only write the page again

Each stack gets an environment of its own in FOLDER, with mmcv's operators built by
tools/build_mmcv.py, and runs the default tests. What is done is not done again: an
interrupted call goes on, and tests that have run on this state of the checkout are not
repeated (--again does). It ends with status 1 where a test fails and EXPLAINED below
does not say why. An hour and a half on two cores, of which the tests take most.
"""

import argparse
import collections
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import build_mmcv
from build_mmcv import Failure, one_line_errors, run, say
from setup_env import REQUIREMENTS, ROOT, pinned, version_of

PAGE = ROOT / 'docs' / 'stacks.md'
NEWEST_TORCH = '2.14.1'
OLDEST_TORCH = '2.1.2'


class Stack(NamedTuple):
    """Versions that work together.

    Attributes:
        about: Who has it, for the page.
        torch: Version of torch.
        libraries: Files in requirements/ with everything else.
        packages: The packages of MMDetection's family, installed without dependencies.
        mmcv: Name and version of the distribution that brings mmcv.
    """

    about: str
    torch: str
    libraries: tuple[str, ...]
    packages: tuple[str, ...]
    mmcv: tuple[str, str]


def stacks() -> dict[str, Stack]:
    """Every stack that is claimed, by name."""
    usual = tuple(
        f'{name}=={pinned(name)}' for name in ('mmengine', 'mmdet', 'mmpretrain')
    )
    mmcv = ('mmcv', pinned('mmcv'))
    new = ('runtime', 'tests')
    fork = (
        *('onedl-mmengine==0.10.12', 'onedl-mmdetection==3.5.1'),
        # Its mmdet imports imgaug, and that scikit-image.
        *('imaug', 'imagecorruptions-imaug', 'scikit-image', 'imageio', 'tifffile'),
        *('lazy_loader', 'networkx'),
    )
    return {
        'oldest': Stack(
            'what most users of MMDetection have',
            OLDEST_TORCH,
            ('oldest',),
            usual,
            mmcv,
        ),
        'pinned': Stack(
            'what `tools/setup_env.sh` installs', pinned('torch'), new, usual, mmcv
        ),
        'newest': Stack('the latest torch', NEWEST_TORCH, new, usual, mmcv),
        'fork': Stack(
            'the maintained fork of the OpenMMLab packages',
            *(pinned('torch'), new, fork, ('onedl-mmcv', '2.3.6')),
        ),
    }


# Why a test fails on a stack and nothing is to be done: patterns of names of tests.
EXPLAINED: dict[str, dict[str, str]] = {
    'fork': {
        r'test_checkpoint_that_runs_code_is_refused$': "the fork's MMEngine warns of "
        'a checkpoint that torch refuses as unsafe, and loads it all the same',
    },
}


# ------------------------------------------------------------------ an environment


def make(name: str, stack: Stack, folder: Path) -> Path:
    """The Python of a stack's environment; what is installed already stays."""
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    python, log = home / 'bin' / 'python', home / 'setup.log'
    text = '\n'.join(map(str, stack))
    for file in (*stack.libraries, 'build'):
        text += (REQUIREMENTS / f'{file}.txt').read_text()
    state = hashlib.sha256(text.encode()).hexdigest()
    done = home / 'complete'
    if done.exists() and done.read_text() == state:
        return python
    pip = [python, '-m', 'pip', '--disable-pip-version-check', 'install']
    say(f'== {name}: {stack.about}')
    if not python.exists():
        base = next(
            (one for one in ('python3.11', 'python3') if version_of(one) == (3, 11)),
            None,
        )
        if base is None:
            raise Failure('the stacks are checked on Python 3.11, which was not found')
        run('making an environment', [base, '-m', 'venv', home], log)
    run(
        f'installing torch {stack.torch}',
        [*pip, f'torch=={stack.torch}', '-r', REQUIREMENTS / 'build.txt'],
        log,
    )
    files = [
        word for one in stack.libraries for word in ('-r', REQUIREMENTS / f'{one}.txt')
    ]
    run('installing libraries', [*pip, *files], log)
    run(
        'installing MMEngine and MMDetection',
        [*pip, '--no-deps', '--no-build-isolation', *stack.packages],
        log,
    )
    wheel = build_mmcv.wheel_for(python, *stack.mmcv, cuda=False)
    run('installing mmcv', [*pip, '--no-deps', '--force-reinstall', wheel], log)
    run(
        'installing smd_mmdet',
        [*pip, '--no-deps', '--no-build-isolation', '-e', ROOT],
        log,
    )
    done.write_text(state)
    return python


VERSIONS = """
import json, platform
from importlib import metadata
def version(*names):
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
print(json.dumps(dict(
    Python=platform.python_version(), torch=version('torch'), NumPy=version('numpy'),
    MMEngine=version('mmengine', 'onedl-mmengine'), mmcv=version('mmcv', 'onedl-mmcv'),
    MMDetection=version('mmdet', 'onedl-mmdetection'),
    MMPretrain=version('mmpretrain'), pyarrow=version('pyarrow'))))
"""


# ------------------------------------------------------------------ its tests

# The report of what was run once more.
MENDED = 'mended.xml'


class Results(NamedTuple):
    """What the tests of one stack came to, by name of the test."""

    passed: list[str]
    failed: dict[str, str]
    skipped: dict[str, str]


def results_of(home: Path) -> tuple[Results, int]:
    """What a stack's tests came to, and how many were run once more after mending."""
    results = read_results(home / 'results.xml')
    if not (home / MENDED).exists():
        return results, 0
    later = read_results(home / MENDED)
    known = {*later.passed, *later.failed, *later.skipped}
    failed = {n: why for n, why in results.failed.items() if n not in known}
    return (
        Results(
            results.passed + later.passed,
            failed | later.failed,
            results.skipped | later.skipped,
        ),
        len(known),
    )


def read_results(file: Path) -> Results:
    """Read pytest's report (JUnit XML); a test that fails twice counts once."""
    passed, failed, skipped = [], {}, {}
    for case in ElementTree.parse(file).iter('testcase'):
        name = f'{case.get("classname", "")}::{case.get("name")}'
        bad = [*case.findall('failure'), *case.findall('error')]
        left_out = case.find('skipped')
        if bad:
            failed[name] = first_line(bad[0].get('message') or bad[0].text)
        elif left_out is not None:
            skipped[name] = first_line(left_out.get('message'))
        else:
            passed.append(name)
    return Results([name for name in passed if name not in failed], failed, skipped)


def first_line(text: str | None) -> str:
    return (text or '').strip().partition('\n')[0][:200] or 'no message'


def test(name: str, python: Path, folder: Path, again: bool) -> None:
    """Run the default tests on a stack, once per state of the checkout."""
    home = folder / name
    report, about = home / 'results.xml', home / 'results.json'
    state = checkout()
    ran = about.exists() and report.exists() and json.loads(about.read_text())
    if not again and ran and ran['checkout'] == state:
        return
    report.unlink(missing_ok=True)
    (home / MENDED).unlink(missing_ok=True)
    run_tests(name, python, home, report, stack_arguments(name))
    versions = subprocess.run(
        [python, '-c', VERSIONS], capture_output=True, text=True, check=True, cwd='/'
    ).stdout
    part = about.with_name('results.json.part')
    part.write_text(
        json.dumps(
            {
                'checkout': state,
                'versions': json.loads(versions),
                'date': datetime.date.today().isoformat(),
                'cores': len(os.sched_getaffinity(0)),
            }
        )
    )
    part.replace(about)  # a run that is interrupted leaves no half of it


def test_mended(name: str, python: Path, folder: Path) -> None:
    """Run what has failed on a stack once more, after it was mended."""
    home = folder / name
    report = home / 'results.xml'
    if not report.exists():
        raise Failure(f'{name}: its tests have not run yet')
    failed = read_results(report).failed
    chosen = [one for one in failed if not explanation(name, one)]
    if chosen:
        (home / MENDED).unlink(missing_ok=True)
        words = [f'{f.replace(".", "/")}.py::{t}' for f, t in map(split_name, chosen)]
        run_tests(name, python, home, home / MENDED, words)


def split_name(test: str) -> tuple[str, str]:
    """The module of a test and its name within that."""
    module, _, name = test.partition('::')
    return module, name


def run_tests(
    name: str, python: Path, home: Path, report: Path, arguments: list[str]
) -> None:
    """Run tests on a stack; what came of them goes to a report."""
    cores = len(os.sched_getaffinity(0))
    env = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'SMD_PYTHON': str(python),
        'PATH': f'{python.parent}{os.pathsep}{os.environ["PATH"]}',
    }
    command = [
        python,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        f'--junitxml={report}',
        '-n',
        min(cores, 4),
        '--dist',
        'loadfile',
        '--no-loadscope-reorder',
        # A test that hangs fails, and the others go on.
        *('-o', 'faulthandler_timeout=1200'),
        *('-o', 'faulthandler_exit_on_timeout=true'),
        *arguments,
    ]
    try:
        run(f'testing {name}', command, home / 'tests.log', env, ROOT)
    except Failure:
        if not report.exists():
            raise


def stack_arguments(name: str) -> list[str]:
    """Lint, format and types are of the checkout, not of a stack: once is enough."""
    return [] if name == 'pinned' else ['--ignore', 'tests/test_style.py']


def checkout() -> str:
    """The state of the files that the tests read."""
    listed = subprocess.run(
        ['git', '-C', ROOT, 'ls-files', '-co', '--exclude-standard', '-z'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split('\0')
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed)):
        file = ROOT / name
        if file.is_file() and file != PAGE:
            digest.update(name.encode() + b'\0' + file.read_bytes())
    return digest.hexdigest()


# ------------------------------------------------------------------ the page


def write_page(folder: Path, page: Path = PAGE) -> bool:
    """Write docs/stacks.md from what was run; whether every failure is explained."""
    found = {
        name: (
            json.loads((folder / name / 'results.json').read_text()),
            *results_of(folder / name),
        )
        for name in stacks()
        if (folder / name / 'results.json').exists()
        and (folder / name / 'results.xml').exists()
    }
    lines = [
        '# The stacks that smd_mmdet is tested on',
        '',
        'Written by `python3 tools/check_stacks.py FOLDER`, which makes an environment',
        'for each stack and runs the default tests in it, on the CPU.',
        '',
        *table(found),
        '',
        'What is skipped on the pinned stack follows, and of the others what differs.',
    ]
    usual = found['pinned'][1].skipped if 'pinned' in found else {}
    known = True
    for name in found:
        text, explained = differences(name, found[name][1], usual)
        known &= explained
        if repeated := found[name][2]:
            text.append(f'- failed at first, then mended and run again: {repeated}')
        lines += ['', f'## {name}: {stacks()[name].about}', '', *text]
    missing = [name for name in stacks() if name not in found]
    if missing:
        lines += ['', f'Not run yet: {", ".join(missing)}.']
    page.write_text('\n'.join(lines) + '\n')
    say(f'wrote {page}')
    return known


def table(found: dict) -> list[str]:
    if not found:
        return []
    columns = list(next(iter(found.values()))[0]['versions'])
    counts = ['passed', 'failed', 'skipped']
    rows = [['stack', *columns, *counts, 'run on'], ['---'] * (len(columns) + 5)]
    for name, (about, results, _) in found.items():
        versions = [about['versions'][column] or '–' for column in columns]
        numbers = [f'{len(getattr(results, count)):,}' for count in counts]
        rows.append([name, *versions, *numbers, about['date']])
    return [f'| {" | ".join(row)} |' for row in rows]


def differences(name: str, results: Results, usual: dict) -> tuple[list[str], bool]:
    """What differs from the pinned stack, in words; whether all of it is explained."""
    lines, explained = [], True
    reasons = collections.Counter(
        reason
        for test, reason in results.skipped.items()
        if name == 'pinned' or usual.get(test) != reason
    )
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f'- {count} skipped: {reason}')
    for test, message in sorted(results.failed.items()):
        why = explanation(name, test)
        explained &= why is not None
        lines.append(f'- **failed** `{test}`: {why or f"not explained; {message}"}')
    return lines or ['No difference from the pinned stack.'], explained


def explanation(stack: str, test: str) -> str | None:
    """Why a test fails on a stack and nothing is to be done; None for no reason."""
    known = EXPLAINED.get(stack, {}).items()
    return next((why for pattern, why in known if re.search(pattern, test)), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='where the environments are made')
    parser.add_argument('--only', nargs='+', choices=list(stacks()), metavar='STACK')
    parser.add_argument('--page', action='store_true', help='only write the page')
    parser.add_argument(
        '--mended', action='store_true', help='repeat tests that failed, and no others'
    )
    parser.add_argument('--again', action='store_true', help='repeat tests that ran')
    args = parser.parse_args()
    with one_line_errors():
        folder = args.folder.resolve()
        if not args.page:
            for name, stack in stacks().items():
                if args.only is None or name in args.only:
                    python = make(name, stack, folder)
                    if args.mended:
                        test_mended(name, python, folder)
                    else:
                        test(name, python, folder, args.again)
        if not write_page(folder):
            say('some failures are not explained: see the page')
            sys.exit(1)


if __name__ == '__main__':
    main()
