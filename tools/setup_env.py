#!/usr/bin/env python3
"""Finds or makes a Python that runs smd_mmdet, and prints its path.

    bash tools/setup_env.sh [--tests]
    bash tools/setup_env.sh --how-long

--tests adds what the tests need. --how-long does nothing but print about how many
minutes it will take. It takes the first of these that there is:

1. the Python that SMD_PYTHON names;
2. the active virtual or conda environment, if it imports mmdet and mmcv.ops;
3. .venv in the repository. This script makes it, with the versions in requirements/.
   mmcv's ops are compiled once (tools/build_mmcv.py) and kept as a wheel in the user's
   cache folder.

To 1 and 2 only packages that are missing are added, and none is replaced. Nothing but
.venv, the cache folder and the checkout is written to. Interrupted, it goes on the next
time. For 3, SMD_TORCH_SPEC names another torch than requirements/stack.txt, such as
torch==2.13.0+cpu.

It needs the standard library only. Where uv is there, it installs faster.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import build_mmcv
from build_mmcv import CACHE, Failure, lock, one_line_errors, run, say

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / '.venv'
LOG = VENV / 'setup.log'
REQUIREMENTS = ROOT / 'requirements'

# Pythons that the versions in requirements/ have wheels for, the best proven first.
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 10))
STACK = ('torch', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet')
RUNTIME = (
    'jinja2',
    'matplotlib',
    'numpy',
    'plotly',
    'pyarrow',
    'rich',
    'scipy',
    'wrapt',
)
TESTS = ('hypothesis', 'mypy', 'psutil', 'pytest', 'pytest_cov', 'ruff')


# ------------------------------------------------------------------ asking a Python


def ask(python: Path, code: str, *arguments: str) -> object:
    """What a Python prints, as JSON; from /, as it would import from the folder here.

    Raises:
        Failure: If it does not run.
    """
    command = [python, '-W', 'ignore', '-c', code, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd='/')
    except OSError as error:
        raise Failure(f'it does not run: {error.strerror}') from None
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ['no output'])[-1]
        raise Failure(f'it does not run: {last}') from None


IMPORTS = """
import importlib, json, sys

def fault(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return [name, None if error.name == name else str(error)]
    except BaseException as error:
        return [name, 'fails to import: %s' % (error or type(error).__name__)]

old = sys.version_info < (3, 10)
faults = [] if old else [f for f in map(fault, sys.argv[1:]) if f]
print()
print(json.dumps(dict(old=old, faults=faults)))
"""

FIND = """
import json, sys
from importlib.util import find_spec
print(json.dumps([name for name in sys.argv[1:] if find_spec(name) is None]))
"""

ORIGIN = """
import json
from importlib.util import find_spec
spec = find_spec('smd_mmdet')
print(json.dumps(list(spec.submodule_search_locations) if spec else []))
"""


def why_not(python: Path) -> str:
    """Why this Python cannot run MMDetection, in one line; empty if it can."""
    try:
        found = ask(python, IMPORTS, *STACK)
    except Failure as failure:
        return str(failure)
    if found['old']:
        return 'Python is older than 3.10'
    missing = [name for name, message in found['faults'] if message is None]
    said = [f'{", ".join(missing)} missing'] if missing else []
    # mmcv.ops is part of mmcv, and mmdet fails when mmcv does: name the cause once.
    if 'mmcv' not in missing:
        said += [f'{name} {text}' for name, text in found['faults'] if text]
    return ' '.join('; '.join(said).split())


# ------------------------------------------------------------------ someone's own


def chosen_environment() -> Path | None:
    """The Python that SMD_PYTHON or the active environment gives."""
    named = os.environ.get('SMD_PYTHON')
    if named:
        found = shutil.which(named)
        if found is None:
            raise Failure(f'SMD_PYTHON={named} is not a program')
        # Relative paths change meaning with the folder; links must stay links.
        python = Path(os.path.abspath(found))
        if python == VENV / 'bin' / 'python':
            return None
        if fault := why_not(python):
            raise Failure(f'SMD_PYTHON={named} cannot run MMDetection: {fault}')
        return python
    python = active_environment()
    if python and (fault := why_not(python)):
        say(f'not using the active environment {python.parents[1]}: {fault}')
        return None
    return python


def active_environment() -> Path | None:
    """The Python of the active virtual or conda environment that is not .venv."""
    active = os.environ.get('VIRTUAL_ENV') or os.environ.get('CONDA_PREFIX')
    if not active or Path(active) == VENV:
        return None
    python = Path(os.path.abspath(active), 'bin', 'python')
    return python if python.exists() else None


def adopt(python: Path, tests: bool) -> None:
    """Add to an environment that is not ours what is missing, and replace nothing."""
    pip = [str(python), '-m', 'pip', '--disable-pip-version-check']
    lacking = ask(python, FIND, *RUNTIME, *(TESTS if tests else ()))
    if lacking:
        say(f'adding to the environment of {python}: {" ".join(lacking)}')
        have = subprocess.run(
            [*pip, 'list', '--format=freeze'], capture_output=True, text=True
        )
        if have.returncode:
            raise Failure(f'{python} has no pip: install {" ".join(lacking)} there')
        with tempfile.NamedTemporaryFile('w', suffix='.txt') as constraints:
            constraints.write(have.stdout)
            constraints.flush()
            wanted = [suited(name, have.stdout) for name in lacking]
            quietly(
                [*pip, 'install', '-q', '-c', constraints.name, *wanted],
                f'could not add {" ".join(lacking)} to the environment of {python}',
            )
    if ask(python, ORIGIN) != [str(ROOT / 'smd_mmdet')]:
        say(f'linking this checkout of smd_mmdet into the environment of {python}')
        quietly(
            [*pip, 'install', '-q', '--no-deps', '-e', str(ROOT)],
            f'could not install smd_mmdet into the environment of {python}',
        )


def suited(name: str, installed: str) -> str:
    """What to ask pip for: pyarrow 26 needs NumPy 2 and does not tell pip so."""
    old = re.search(r'^numpy==1\.', installed, re.MULTILINE)
    return 'pyarrow<26' if name == 'pyarrow' and old else name


def quietly(command: list[str], failure: str) -> None:
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise Failure(failure)


# ------------------------------------------------------------------ our own .venv


def pinned(name: str) -> str:
    text = (REQUIREMENTS / 'stack.txt').read_text()
    return re.search(rf'^{name}==(\S+)$', text, re.MULTILINE)[1]


def torch_spec() -> str:
    """The torch asked for. One that was asked for once stays, when nothing is said."""
    asked, kept = os.environ.get('SMD_TORCH_SPEC'), VENV / 'torch-spec'
    if not asked and kept.exists():
        asked = kept.read_text().strip()
    return asked or f'torch=={pinned("torch")}'


def state(tests: bool) -> str:
    """What .venv is made from. A checkout that was moved counts as changed."""
    files = [REQUIREMENTS / f'{name}.txt' for name in ('build', 'runtime', 'stack')]
    files += [REQUIREMENTS / 'tests.txt'] if tests else []
    files += [ROOT / 'setup.py', ROOT / 'pyproject.toml']
    parts = [str(ROOT), torch_spec(), *(file.read_text() for file in files)]
    text = '\n'.join(parts).encode(errors='surrogateescape')
    digest = hashlib.sha256(text).hexdigest()
    return f'{digest} tests' if tests else digest


def ready(tests: bool) -> bool:
    try:
        stamp = (VENV / 'stamp').read_text().strip()
    except OSError:
        return False
    # One that has what the tests need also does for everything else.
    fits = stamp in {state(tests), state(True)}
    return fits and os.access(VENV / 'bin' / 'python', os.X_OK)


def version_of(python: str) -> tuple[int, int] | None:
    """The version of a Python; None if it does not run."""
    code = 'import sys; print(*sys.version_info[:2])'
    try:
        done = subprocess.run([python, '-c', code], capture_output=True, text=True)
        major, minor = done.stdout.split()
    except (OSError, ValueError):
        return None
    return int(major), int(minor)


def base_python(version=version_of) -> str:
    """The Python to make .venv from: the best proven version there is.

    Raises:
        Failure: If there is none that the versions in requirements/ have wheels for.
    """
    names = [f'python{major}.{minor}' for major, minor in PYTHONS]
    names += ['python3', 'python', getattr(sys, '_base_executable', sys.executable)]
    there = {name: found for name in names if (found := version(name))}
    for wanted in PYTHONS:
        for name, found in there.items():
            if found == wanted:
                path = shutil.which(name)
                return os.path.abspath(path) if path else name
    found = ', '.join(sorted({f'{a}.{b}' for a, b in there.values()})) or 'none'
    raise Failure(
        f'.venv needs Python 3.10, 3.11, 3.12 or 3.13 and found is {found}: torch '
        f'{pinned("torch")} and others have wheels for these only. Install one '
        '(Debian: python3.11 and python3.11-venv; or uv python install 3.11), or set '
        'SMD_PYTHON to a Python that imports mmdet'
    )


def has_wheel(tag: str) -> bool:
    """Whether mmcv is in the cache, for some torch and a Python such as cp311."""
    name = f'mmcv-{pinned("mmcv")}-torch-*-{tag}-{platform.machine()}-*/*.whl'
    return any((CACHE / 'wheels').glob(name))


def minutes() -> int:
    """About how long a set-up takes from here, on two cores that are free."""
    if os.environ.get('SMD_PYTHON') or ready(tests=False):
        return 0
    # Whether these can be imported is only seen later: that takes some seconds.
    with contextlib.suppress(Failure):
        active = active_environment()
        if active and not ask(active, FIND, 'torch', 'mmengine', 'mmcv', 'mmdet'):
            return 0
    return 2 if has_wheel('cp3*') else 4


def clear_venv() -> None:
    """Empty .venv but for the mark that it is ours, so that this can be interrupted.

    The torch that was asked for stays too.
    """
    mark, spec = VENV / 'made-by-setup_env', VENV / 'torch-spec'
    VENV.mkdir(exist_ok=True)
    mark.touch()
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry not in (mark, spec):
            entry.unlink()


def make_venv() -> None:
    # Where .venv is active, its own Python comes first and is about to be removed.
    folders = os.environ.get('PATH', os.defpath).split(os.pathsep)
    folders = [one for one in folders if Path(one) != VENV / 'bin']
    os.environ['PATH'] = os.pathsep.join(folders)
    base = base_python()
    minor = version_of(base)[1]
    code = 'import ensurepip, venv'
    if subprocess.run([base, '-c', code], capture_output=True).returncode:
        raise Failure(
            f'{base} cannot make virtual environments (Debian: python3.{minor}-venv)'
        )
    # That a compiler is missing is better said now than after a long download.
    if not has_wheel(f'cp3{minor}'):
        build_mmcv.compiler('c++17')
        code = (
            'import json, sysconfig; print(json.dumps(sysconfig.get_path("include")))'
        )
        build_mmcv.need_headers({'headers': ask(Path(base), code)})
    say(f'making an environment in .venv, with Python 3.{minor}: some minutes, once')
    clear_venv()
    run('making .venv', [base, '-m', 'venv', VENV], LOG)


def install(what: str, *arguments: object) -> None:
    """Install into .venv, by uv where it is there and can."""
    python = VENV / 'bin' / 'python'
    with temporary_folder() as env:
        if uv := shutil.which('uv'):
            command = [uv, 'pip', 'install', '--python', python, *arguments]
            try:
                run(what, command, LOG, env)
                return
            except Failure:
                say('uv cannot: pip tries')
        pip = [python, '-m', 'pip', '--disable-pip-version-check', 'install']
        run(what, [*pip, *arguments], LOG, env)


@contextlib.contextmanager
def temporary_folder() -> Iterator[dict[str, str]]:
    """Variables with a temporary folder in .venv: pip, interrupted, leaves gigabytes.

    What a call that was killed has left there, the next one removes.
    """
    folder = VENV / 'tmp'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield {**os.environ, 'TMPDIR': str(folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install_mmcv() -> None:
    """Install mmcv from the cache, or build it first."""
    file = ROOT / 'smd_mmdet' / 'launch' / 'threads.py'
    spec = importlib.util.spec_from_file_location('threads', file)
    threads = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(threads)
    jobs = min(build_mmcv.jobs_that_fit(), max(1, round(threads.cores_allowed())))
    version = pinned('mmcv')
    wheel = build_mmcv.wheel_for(VENV / 'bin' / 'python', 'mmcv', version, jobs=jobs)
    install(f'installing mmcv {version}', '--no-deps', '--force-reinstall', wheel)


def fill_venv(tests: bool) -> None:
    """Install all that .venv needs; what is installed already takes no time."""
    mm = ['mmengine', 'mmdet', *(['mmpretrain'] if tests else [])]
    build, runtime, more = (
        REQUIREMENTS / f'{name}.txt' for name in ('build', 'runtime', 'tests')
    )
    spec = torch_spec()
    install(f'installing {spec}', spec, '-r', build)
    # Only now: a mistake in it must not come back when nothing is said.
    if os.environ.get('SMD_TORCH_SPEC'):
        (VENV / 'torch-spec').write_text(spec)
    install('installing libraries', '-r', runtime, *(('-r', more) if tests else ()))
    install(f'installing {" and ".join(mm)}', '--no-deps',
            *(f'{name}=={pinned(name)}' for name in mm))  # fmt: skip
    install_mmcv()
    install('installing smd_mmdet', '--no-deps', '--no-build-isolation', '-e', ROOT)


def own_environment(tests: bool) -> Path:
    """.venv, made or brought up to date."""
    python = VENV / 'bin' / 'python'
    if ready(tests):
        return python
    with lock(ROOT, 'works on this checkout'):
        if ready(tests):
            return python
        if VENV.exists() and not (VENV / 'made-by-setup_env').exists():
            # It may be someone's own, even if it is empty.
            raise Failure(
                f'{VENV} exists and was not made by this script: activate it, set '
                'SMD_PYTHON, or move it away'
            )
        tests = tests or (VENV / 'has-tests').exists()
        old = works(python)
        if old:
            stamp = VENV / 'stamp'
            say('updating .venv' if stamp.exists() else 'going on with .venv')
            stamp.unlink(missing_ok=True)
            if moved():
                command = [python, '-m', 'venv', '--without-pip', VENV]
                run('telling .venv where it is now', command, LOG)
        else:
            make_venv()
        fill_venv(tests)
        if old and why_not(python):
            say('.venv is damaged: making it anew')
            make_venv()
            fill_venv(tests)
        if fault := why_not(python):
            raise Failure(
                f'the new environment does not work: {fault}; remove {VENV} and '
                f'{CACHE / "wheels"} and try again'
            )
        if tests:
            (VENV / 'has-tests').touch()
        # The stamp comes last, so that an interrupted call leaves none.
        (VENV / 'stamp').write_text(state(tests) + '\n')
    return python


def moved() -> bool:
    """Whether activating .venv would lead to where the checkout was before."""
    script = VENV / 'bin' / 'activate'
    return script.exists() and str(VENV) not in script.read_text(errors='replace')


def works(python: Path) -> bool:
    """Whether there is an environment that can install packages."""
    try:
        command = [python, '-m', 'pip', '--version']
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def main() -> None:
    parser = build_mmcv.Parser(
        prog='setup_env.sh',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--tests', action='store_true')
    parser.add_argument('--how-long', action='store_true')
    args = parser.parse_args()
    with one_line_errors():
        if args.how_long:
            print(minutes())
            return
        python = chosen_environment()
        if python is not None:
            adopt(python, args.tests)
        else:
            python = own_environment(args.tests)
        print(python)


if __name__ == '__main__':
    main()
