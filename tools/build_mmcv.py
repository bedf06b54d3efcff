#!/usr/bin/env python3
"""Builds MMCV with its operators, in minutes, for any Python that has torch.

    python tools/build_mmcv.py                     # for this Python, kept in the cache
    python tools/build_mmcv.py --python .venv/bin/python --mmcv 2.1.0 -o wheels
    python tools/build_mmcv.py --package onedl-mmcv --mmcv 2.3.6

The path of the wheel is all that goes to standard output. This file, with check_mmcv.py
beside it, needs nothing but the standard library; the Python that it builds for needs
torch, and for the proof mmengine and opencv-python-headless. Nothing is installed into
it.

Why it is fast: each of MMCV's 77 C++ files reads torch's headers anew, and Python's own
flags ask for debug information. Here files are joined to a few units, each of which
reads the headers once, and debug information is left out. Files that define the same
name are kept apart. A unit that does not compile is halved, down to single files.

For a GPU it builds where torch sees one (or with --cuda). Where there is no CUDA
toolkit, nvcc and its headers come from pip into the cache folder.
"""

import argparse
import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

if sys.version_info < (3, 10):  # noqa: UP036 - the user may start it with any Python
    print('error: Python 3.10 or later is needed', file=sys.stderr)
    sys.exit(2)


def cache_folder() -> Path:
    """The folder of this project in the user's cache folder.

    Where XDG_CACHE_HOME is a relative path it does not count, as its definition asks.
    """
    named = os.environ.get('XDG_CACHE_HOME', '')
    folder = named if os.path.isabs(named) else os.path.expanduser('~/.cache')
    if not os.path.isabs(folder):
        print('error: no home folder: set HOME or XDG_CACHE_HOME', file=sys.stderr)
        sys.exit(2)
    return Path(folder, 'smd_mmdet')


CACHE = cache_folder()
# setuptools 81 dropped the pkg_resources that mmcv's setup.py imports.
BUILD_TOOLS = ('setuptools>=77,<81', 'wheel', 'ninja')
MEMORY_OF_A_JOB = 2.5e9
FEWEST_UNITS = 4
MOST_UNITS = 16


class Failure(Exception):
    """What went wrong and what to do, in one line."""


class NoToolkit(Failure):
    """There is no CUDA toolkit and none can be had."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ running a command


def run(
    what: str,
    command: list,
    log: Path,
    env: dict | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a command with its output in a log, and show that it goes on.

    Raises:
        Failure: If it ends with an error, with the reason as far as the log tells it.
    """
    began = shown = time.monotonic()
    with open(log, 'ab') as file:
        file.write(f'=== {what}\n'.encode())
    start = log.stat().st_size
    with open(log, 'ab') as file:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=cwd or log.parent,
            start_new_session=True,
        )
    terminal = sys.stderr.isatty()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if now - shown >= (1 if terminal else 60):
                shown = now
                line = f'{what}: {now - began:.0f} s{compiled(tail(log, start))}'
                print(
                    f'\r\033[K{line}' if terminal else line,
                    end='' if terminal else '\n',
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        if terminal:
            print('\r\033[K', end='', file=sys.stderr, flush=True)
        if process.poll() is None:  # interrupted: its children end with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        # python -m venv does not tell what its ensurepip said.
        full = shutil.disk_usage(log.parent).free < 1 << 20
        reason = why(FULL if full else tail(log, start, size=1 << 20))
        raise Failure(f'{what} failed{reason}; all of its output is in {log}')
    say(f'{what}: {time.monotonic() - began:.0f} s')


def tail(log: Path, start: int, size: int = 1 << 16) -> str:
    with open(log, 'rb') as file:
        file.seek(max(start, log.stat().st_size - size))
        return file.read().decode(errors='replace')


def compiled(output: str) -> str:
    """How far ninja is, from lines such as [3/80]."""
    counts = re.findall(r'^\s*\[(\d+)/(\d+)\]', output, re.MULTILINE)
    return f', {counts[-1][0]} of {counts[-1][1]} units compiled' if counts else ''


FULL = 'No space left on device'
REASONS = {
    rf'{FULL}|Errno 28': 'the disk is full: free some space, then '
    'start again, it goes on from here',
    r'Temporary failure in name resolution|Name or service not known|'
    r'Failed to establish a new connection|Network is unreachable|'
    r'NewConnectionError|ConnectTimeoutError|Connection refused': 'the package index '
    'cannot be reached: is this machine offline? Start again when it is not',
    r'Killed signal terminated program|Cannot allocate memory|out of memory': 'out of '
    'memory: set MAX_JOBS=1',
}
# What no other division into units makes good.
MISSING = (r'fatal error: \S+: No such file', r'cannot find -l')


def why(output: str) -> str:
    """The reason of a failure, in brackets, as far as the output tells it."""
    for pattern, reason in REASONS.items():
        if re.search(pattern, output):
            return f' ({reason})'
    errors = re.findall(r'^.*?\b(?:ERROR|[Ee]rror): .+$', output, re.MULTILINE)
    return f' ({" ".join(errors[-1].split())})' if errors else ''


# ------------------------------------------------------------------ what to build for

ASK = """
import json, platform, sys, sysconfig, torch
from torch.utils.cpp_extension import CUDA_HOME
gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
print(json.dumps(dict(
    torch=torch.__version__,
    cuda=torch.version.cuda,
    cuda_home=CUDA_HOME,
    gpus=sorted({'%d.%d' % torch.cuda.get_device_capability(i) for i in gpus}),
    tag='cp%d%d' % sys.version_info[:2],
    headers=sysconfig.get_path('include'),
    packages=sysconfig.get_path('purelib'),
)))
"""


def ask(python: Path) -> dict:
    """What the Python to build for has: torch, CUDA, GPUs, its headers."""
    done = subprocess.run(
        [python, '-W', 'ignore', '-c', ASK], capture_output=True, text=True, cwd='/'
    )
    try:
        facts = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ['no output'])[-1]
        raise Failure(f'{python} cannot import torch: {last}') from None
    if int(facts['tag'][3:]) < 10:
        raise Failure(f'{python} is older than Python 3.10')
    return facts


def standard(torch: str) -> str:
    """The C++ standard that torch's headers ask for."""
    major, minor = (int(number) for number in re.findall(r'\d+', torch)[:2])
    return 'c++20' if (major, minor) >= (2, 14) else 'c++17'


def compiler(std: str) -> tuple[str, str]:
    """The C and the C++ compiler: the user's choice, the system's, the first on PATH.

    The system's comes before others because their libstdc++ may be newer than the one
    that Python has loaded; mmcv built with it then crashes at import.
    """
    asked = os.environ.get('CXX')
    pairs = [('/usr/bin/gcc', '/usr/bin/g++'), ('gcc', 'g++'), ('cc', 'c++')]
    if asked:
        pairs = [(os.environ.get('CC') or 'cc', asked)]
    for cc, cxx in pairs:
        command = [*cxx.split(), f'-std={std}', '-fsyntax-only', '-x', 'c++', '-']
        with contextlib.suppress(OSError):
            done = subprocess.run(
                command, input=b'#include <vector>\n', capture_output=True
            )
            if done.returncode == 0:
                return cc, cxx
    raise Failure(
        f"mmcv's ops must be compiled and there is no {std.upper()} compiler: install "
        'one (Debian: g++) or set CXX'
    )


def need_headers(facts: dict) -> None:
    if not Path(facts['headers'], 'Python.h').exists():
        raise Failure(
            f"mmcv's ops must be compiled and Python.h is missing in "
            f"{facts['headers']}: install Python's headers (Debian: python3-dev)"
        )


def folder_of(package: str, version: str, facts: dict, ops: str) -> Path:
    """Where the wheel is kept: one folder for all that it depends on."""
    parts = (
        package,
        version,
        'torch',
        facts['torch'],
        facts['tag'],
        platform.machine(),
        ops,
    )
    return CACHE / 'wheels' / '-'.join(parts)


def jobs_that_fit() -> int:
    """How many files to compile at a time, by cores and memory."""
    with contextlib.suppress(KeyError, ValueError):
        return max(1, int(os.environ['MAX_JOBS']))
    cores = len(os.sched_getaffinity(0))
    memory = []
    with contextlib.suppress(OSError, StopIteration):
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = next(line for line in lines if line.startswith('MemAvailable'))
        memory.append(1024 * int(free.split()[1]))
    with contextlib.suppress(OSError, ValueError):
        memory.append(int(Path('/sys/fs/cgroup/memory.max').read_text()))
    fit = int(min(memory, default=cores * MEMORY_OF_A_JOB) / MEMORY_OF_A_JOB)
    return max(1, min(cores, fit))


# ------------------------------------------------------------------ sources and units


def download(python: Path, package: str, version: str, work: Path, log: Path) -> Path:
    """Unpack the source archive.

    pip asks an archive for its metadata when it has unpacked it, and mmcv's cannot
    tell them where setuptools or torch is missing or Python is 3.13. So it may fail;
    ``--no-clean`` leaves what it has unpacked.
    """
    source = work / 'source'
    if source.is_dir():
        return source  # of a build that was interrupted
    unpacked = work / 'unpacked'
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    failure = None
    try:
        run(
            f'downloading {package} {version}',
            [
                python,
                '-m',
                'pip',
                '--disable-pip-version-check',
                'download',
                '--no-clean',
                '--no-deps',
                '--no-binary',
                ':all:',
                '--no-build-isolation',
                '-d',
                unpacked,
                f'{package}=={version}',
            ],
            log,
            {**os.environ, 'TMPDIR': str(unpacked)},
        )
    except Failure as error:
        if any(reason in str(error) for reason in REASONS.values()):
            raise  # what is unpacked may be half of it
        failure = error
    found = [path.parent for path in unpacked.glob('*/*/setup.py')]
    if not found:
        raise failure or Failure(f'{package} {version} has no setup.py')
    found[0].rename(source)
    shutil.rmtree(unpacked)
    return source


def repair(source: Path, std: str) -> None:
    """Change what keeps mmcv's setup.py from working with this Python and torch."""
    setup = source / 'setup.py'
    text = setup.read_text()
    for old, new in (
        # torch 2.14 and later refuse C++17.
        ('-std=c++17', f'-std={std}'),
        # Since Python 3.13, exec does not write into a function's variables.
        (
            "exec(compile(f.read(), version_file, 'exec'))",
            "exec(compile(f.read(), version_file, 'exec'), globals())",
        ),
        ("locals()['__version__']", "globals()['__version__']"),
    ):
        text = text.replace(old, new)
    # Renamed: what is interrupted, or meets a full disk, leaves the old one whole.
    new = setup.with_name('setup.py.new')
    new.write_text(text)
    new.replace(setup)


NAMES = (
    r'template\s*<[^{};]*?>[^{};()]*?\b(\w+)\s*\(',
    r'\bstatic\b[^;{}()]*?\b(\w+)\s*\(',
    r'\b(?:struct|class|enum|union)\s+(\w+)',
    r'\busing\s+(\w+)\s*=',
)
MACRO = re.compile(r'^[ \t]*#[ \t]*define[ \t]+(\w+)', re.MULTILINE)


def names_defined(text: str) -> set[str]:
    """The names that another file of the same unit must not define too.

    Plain functions are not among them: as all files are linked to one library, no two
    of those can clash. It may find too many, which costs a unit, never correctness.
    """
    text = re.sub(r'//[^\n]*|/\*.*?\*/', '', text, flags=re.DOTALL)
    depth, outside = 0, []
    for character in text:
        depth -= character == '}'
        if depth == 0:
            outside.append('{}' if character == '}' else character)
        depth += character == '{'
    flat = ''.join(outside)
    return {name for pattern in NAMES for name in re.findall(pattern, flat)}


def group(files: list[Path], units: int) -> list[list[Path]]:
    """Share files out among units of about the same size, without a clash of names."""
    texts = {file: file.read_text(errors='replace') for file in files}
    names = {file: names_defined(text) for file, text in texts.items()}
    groups: list[list[Path]] = [[] for _ in range(units)]
    for file in sorted(files, key=lambda file: (-len(texts[file]), file.name)):
        free = [
            one
            for one in groups
            if not any(names[file] & names[other] for other in one)
        ]
        if not free:
            groups.append([])
            free = groups[-1:]
        min(free, key=lambda one: sum(len(texts[other]) for other in one)).append(file)
    return [sorted(one) for one in groups if one]


def write_units(folder: Path, groups: list[list[Path]]) -> dict[str, list[Path]]:
    """Write a file for each group that includes the group's files."""
    units = {}
    for files in groups:
        lines = []
        for file in files:
            lines.append(f'#include "{file.relative_to(folder)}"\n')
            # One file's macros must not reach the next: psamask.cpp defines `min`.
            macros = MACRO.findall(file.read_text(errors='replace'))
            lines += [f'#undef {name}\n' for name in dict.fromkeys(macros)]
        # Named after its first file, so that a unit that stays the same keeps its name.
        first = str(files[0].relative_to(folder)).replace('/', '_').partition('.')[0]
        unit = folder / f'unit_{len(files)}_{first}.cpp'
        text = ''.join(lines)
        if not unit.exists() or unit.read_text() != text:
            unit.write_text(text)
        units[unit.stem] = files
    for unit in folder.glob('unit_*.cpp'):
        if unit.stem not in units:
            unit.unlink()
    return units


def prepare(source: Path, jobs: int) -> tuple[Path, list[list[Path]]]:
    """Set the C++ files aside and say which of them go together."""
    folder = source / 'mmcv' / 'ops' / 'csrc' / 'pytorch'
    for file in [*folder.glob('*.cpp'), *folder.glob('cpu/*.cpp')]:
        if not file.name.startswith('unit_'):
            file.rename(file.with_name(file.name + '.inc'))
    files = sorted([*folder.glob('*.cpp.inc'), *folder.glob('cpu/*.cpp.inc')])
    if not files:
        raise Failure(f'no C++ files in {folder}: this mmcv is laid out differently')
    return folder, group(files, min(max(jobs, FEWEST_UNITS), MOST_UNITS))


def smaller(groups: list[list[Path]], failed: set[str], units: dict) -> list | None:
    """Halve the units that did not compile; None where nothing is left to halve."""
    bad = [files for name, files in units.items() if name in failed]
    if not bad:  # it did not link, or nothing told which: everything is suspect
        bad = groups
    if all(len(files) == 1 for files in bad):
        return None
    halves = []
    for files in groups:
        middle = (len(files) + 1) // 2 if files in bad else len(files)
        halves += [files[:middle], files[middle:]]
    return [files for files in halves if files]


# ------------------------------------------------------------------ building


def fetch_into(
    folder: Path, what: str, python: Path, *packages: str, log: Path
) -> None:
    """Put packages of pip into a folder of their own, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    pip = [python, '-m', 'pip', '--disable-pip-version-check', 'install', '-q']
    # What pip leaves when it is interrupted goes with the folder of the build.
    env = {**os.environ, 'TMPDIR': str(log.parent)}
    run(what, [*pip, '--target', folder, *packages], log, env)


def build_tools(python: Path, work: Path, log: Path) -> Path:
    """A folder with what mmcv's setup.py needs, so that nothing is installed."""
    folder = work / 'tools'
    if not (folder / 'complete').exists():
        fetch_into(folder, 'getting build tools', python, *BUILD_TOOLS, log=log)
        (folder / 'complete').touch()
    return folder


def build(
    python: Path,
    source: Path,
    facts: dict,
    cuda: Path | None,
    jobs: int,
    work: Path,
    log: Path,
) -> Path:
    """Compile mmcv and pack a wheel, with smaller units where larger ones fail."""
    std = standard(facts['torch'])
    cc, cxx = compiler(std)
    repair(source, std)
    tools = build_tools(python, work, log)
    env = {
        **os.environ,
        'CC': cc,
        'CXX': cxx,
        # -g0 comes after the -g of Python's own flags.
        'CFLAGS': f'{os.environ.get("CFLAGS", "")} -g0 -O2',
        'CXXFLAGS': f'{os.environ.get("CXXFLAGS", "")} -g0 -O2',
        'MAX_JOBS': str(jobs),
        'MMCV_WITH_OPS': '1',
        'PATH': f'{tools / "bin"}{os.pathsep}{os.environ.get("PATH", "")}',
        'PYTHONPATH': str(tools),
        'TMPDIR': str(work),
    }
    if cuda:
        env |= cuda_environment(facts, cuda)
    else:
        # mmcv would build for any GPU that torch sees.
        env |= {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''}
    folder, groups = prepare(source, jobs)
    out = work / 'wheel'
    while True:
        units = write_units(folder, groups)
        shutil.rmtree(out, ignore_errors=True)
        start = log.stat().st_size if log.exists() else 0
        try:
            run(
                f"building mmcv's ops in {len(units)} units",
                [python, '-W', 'ignore', 'setup.py', 'bdist_wheel', '-d', out],
                log,
                env,
                source,
            )
            if found := list(out.glob('*.whl')):
                return found[0]
            raise Failure(f'no wheel was built; all of its output is in {log}')
        except Failure as failure:
            output = tail(log, start, size=1 << 24)
            if any(re.search(pattern, output) for pattern in [*REASONS, *MISSING]):
                raise
            failed = set(re.findall(r'^FAILED:.*/(unit_\w+)\.o', output, re.MULTILINE))
            groups = smaller(groups, failed, units)
            if groups is None:
                raise failure from None
            say('that did not compile: trying smaller units')


def cuda_environment(facts: dict, home: Path) -> dict[str, str]:
    archs = os.environ.get('TORCH_CUDA_ARCH_LIST') or ';'.join(facts['gpus'])
    if not archs:
        raise Failure(
            'no GPU is seen: set TORCH_CUDA_ARCH_LIST to what to build for, such as 9.0'
        )
    # The headers of cuBLAS, cuSPARSE and cuSOLVER come with torch's own CUDA packages.
    include = Path(facts['packages'], 'nvidia').glob('*/include')
    paths = [str(home / 'include'), *map(str, include), os.environ.get('CPATH', '')]
    return {
        'FORCE_CUDA': '1',
        'CUDA_HOME': str(home),
        'TORCH_CUDA_ARCH_LIST': archs,
        'CPATH': os.pathsep.join(filter(None, paths)),
        'LIBRARY_PATH': os.pathsep.join(
            filter(None, [str(home / 'lib'), os.environ.get('LIBRARY_PATH', '')])
        ),
    }


def cuda_toolkit(python: Path, facts: dict, log: Path) -> Path:
    """The CUDA toolkit to build with: the one that is there, or nvcc from pip."""
    if facts['cuda'] is None:
        raise NoToolkit(f'torch {facts["torch"]} is built without CUDA')
    if found := installed_toolkit(facts['cuda_home']):
        return found
    major = int(facts['cuda'].split('.')[0])
    if major < 13:
        raise NoToolkit(
            f'there is no nvcc, and pip has none for the CUDA {facts["cuda"]} of torch '
            f'{facts["torch"]}: install that toolkit and set CUDA_HOME, or take a '
            'torch for CUDA 13'
        )
    folder = CACHE / f'cuda-{facts["cuda"]}-{platform.machine()}'
    home = folder / 'nvidia' / f'cu{major}'
    if not (folder / 'complete').exists():
        fetch_into(
            folder,
            f'getting nvcc for CUDA {facts["cuda"]}',
            python,
            f'cuda-toolkit[nvcc,cccl,crt,nvvm,cudart]=={facts["cuda"]}.*',
            log=log,
        )
        # The linker looks for libcudart.so in lib64; pip's has neither that name nor
        # that folder.
        for library in (home / 'lib').glob('libcudart.so.*'):
            (home / 'lib' / 'libcudart.so').symlink_to(library.name)
        if not (home / 'lib64').exists():
            (home / 'lib64').symlink_to('lib')
        (folder / 'complete').touch()
    return home


def installed_toolkit(home: str | None) -> Path | None:
    """The toolkit that belongs to an nvcc, if its headers are there.

    Where nvcc on the path is a script that calls another one, torch takes the folder
    of the script for the toolkit; nvcc itself says where it is at home.
    """
    nvcc = Path(home or '/', 'bin', 'nvcc')
    if not home or not nvcc.exists():
        return None
    told = subprocess.run(
        [nvcc, '--dryrun', '-E', '-x', 'cu', os.devnull], capture_output=True, text=True
    )
    top = re.search(r'^#\$ TOP=(.+)$', told.stderr, re.MULTILINE)
    for folder in (Path(home), Path(top[1].strip()) if top else None):
        if folder and (folder / 'include' / 'crt' / 'host_defines.h').exists():
            return folder.resolve()
    return None


# ------------------------------------------------------------------ proof

PROOF = Path(__file__).with_name('check_mmcv.py')


def prove(python: Path, wheel: Path | None, log: Path) -> None:
    """Compare the operators with plain torch; see tools/check_mmcv.py."""
    env = dict(os.environ)
    if wheel:
        site = wheel.parent / 'site'
        shutil.rmtree(site, ignore_errors=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        env['PYTHONPATH'] = str(site)
    run(
        "comparing mmcv's ops with plain torch",
        [python, '-W', 'ignore', PROOF],
        log,
        env,
    )


@contextlib.contextmanager
def lock(folder: Path, what: str) -> Iterator[None]:
    """Wait until no other call works in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'waiting for another set-up that {what}')
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def intact(wheel: Path) -> bool:
    """Whether all of a wheel can be read: a disk may have been full, or failed."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return False


def wheel_for(
    python: Path,
    package: str = 'mmcv',
    version: str = '2.1.0',
    cuda: bool | None = None,
    jobs: int | None = None,
) -> Path:
    """The wheel of mmcv for a Python: the one in the cache, or a new one.

    Args:
        cuda: Whether to build for CUDA; None: where torch sees a GPU.
        jobs: How many units to compile at a time; None: by cores and memory.
    """
    facts = ask(python)
    cuda = bool(facts['gpus']) if cuda is None else cuda
    folder = folder_of(package, version, facts, 'cuda' if cuda else 'cpu')
    with lock(CACHE / 'wheels', "builds mmcv's ops"):
        for kept in sorted(folder.glob('*.whl')):
            if intact(kept):
                return kept
            say(f'{kept} is damaged: building it anew')
            kept.unlink()
        need_headers(facts)
        compiler(standard(facts['torch']))
        work = CACHE / 'wheels' / f'build.{folder.name}'
        for other in (CACHE / 'wheels').glob('build.*'):
            if other != work:  # left by a build that was interrupted
                shutil.rmtree(other, ignore_errors=True)
        work.mkdir(exist_ok=True)
        log = work / 'build.log'
        toolkit = cuda_toolkit(python, facts, log) if cuda else None
        jobs = jobs or jobs_that_fit()
        say(
            f"building mmcv's ops once, {jobs} at a time"
            + ('' if cuda else f': about {4 / jobs:.0f} minutes')
        )
        source = download(python, package, version, work, log)
        wheel = build(python, source, facts, toolkit, jobs, work, log)
        prove(python, wheel, log)
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed within one file system, so that no half of a wheel is ever found.
        kept = wheel.rename(folder / wheel.name)
        shutil.rmtree(work, ignore_errors=True)
    return kept


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what goes wrong into one line and a status of 2."""

    def stop(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    # A terminal that is closed; under nohup it stays ignored.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, stop)
    try:
        yield
    except Failure as failure:
        say(f'error: {failure}')
    except KeyboardInterrupt:
        say('error: interrupted; the same command again goes on')
    except OSError as error:
        name = error.filename2 or error.filename  # what was written comes second
        where = f' ({name})' if name else ''
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        say(f'error: the disk is full{where}' if full else f'error: {error}')
    except UnicodeError as error:
        say(f'error: a path that is not UTF-8: {error}')
    else:
        return
    sys.exit(2)


def copy_into(folder: Path, wheel: Path) -> Path:
    """Copy a wheel, so that no half of it is left where the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'{wheel.name}.part'
    try:
        shutil.copy(wheel, part)
        return part.replace(folder / wheel.name)
    finally:
        part.unlink(missing_ok=True)


class Parser(argparse.ArgumentParser):
    """One that tells a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        say(f'error: {message} (--help shows the usage)')
        sys.exit(2)


def count(text: str) -> int:
    if not re.fullmatch('[1-9][0-9]*', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number above 0')
    return int(text)


def release(text: str) -> str:
    # It becomes part of the name of a folder.
    if not re.fullmatch(r'\d+(\.\d+)+\w*', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a version such as 2.1.0')
    return text


def main() -> None:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--python', default=sys.executable, help='Python to build for')
    parser.add_argument('--package', default='mmcv', choices=['mmcv', 'onedl-mmcv'])
    parser.add_argument('--mmcv', default='2.1.0', type=release, metavar='VERSION')
    parser.add_argument(
        '--cuda',
        action='store_true',
        default=None,
        help='build for CUDA, also where torch sees no GPU',
    )
    parser.add_argument('--cpu', dest='cuda', action='store_false')
    parser.add_argument('--jobs', type=count, help='units to compile at a time')
    parser.add_argument(
        '-o', '--output', type=Path, help='copy the wheel to this folder'
    )
    args = parser.parse_args()
    with one_line_errors():
        found = shutil.which(args.python)
        if found is None:
            raise Failure(f'--python {args.python} is not a program')
        # Not resolved: a virtual environment's Python is a link.
        python = Path(os.path.abspath(found))
        wheel = wheel_for(python, args.package, args.mmcv, args.cuda, args.jobs)
        if args.output:
            wheel = copy_into(args.output, wheel)
        print(wheel)


if __name__ == '__main__':
    main()
