"""The source archive, the wheel made of it, and what works once it is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import smd_mmdet
from smd_mmdet.config.shipped import find_config

ROOT = Path(__file__).parents[1]
SHAPES = 'smd_mmdet::shapes/mask-rcnn_r18_fpn_shapes.py'
NOT_SOURCE = ('.*', 'build', 'dist', 'data', 'work_dirs', '*.egg-info', '__pycache__')


def run(*command, cwd, path='', check=True):
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={
            **os.environ,
            'PYTHONPATH': str(path),
            'PYTHONWARNINGS': 'ignore',
            'SMD_PYTHON': sys.executable,
        },
        capture_output=True,
        text=True,
        check=check,
        timeout=300,
    )


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp('package')
    source = folder / 'source'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    build = (
        f'from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})'
    )
    run(sys.executable, '-c', build, cwd=source)
    return next(folder.glob('*.tar.gz'))


@pytest.fixture(scope='module')
def site(sdist):
    """A folder that holds the installed wheel and nothing else."""
    pip = (sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check')
    offline = ('--no-deps', '--no-index')
    folder = sdist.parent
    wheel = ('wheel', *offline, '--no-build-isolation', '-w', folder, sdist)
    run(*pip, *wheel, cwd=folder)
    site = folder / 'site'
    built = next(folder.glob('*.whl'))
    run(*pip, 'install', *offline, '--target', site, built, cwd=folder)
    return site


def test_the_source_archive_holds_all_that_a_checkout_needs(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    folders = ('benchmarks', 'configs', 'demo', 'docs', 'requirements', 'studies')
    for folder in (*folders, 'tests', 'tools'):
        files = [file for file in (ROOT / folder).rglob('*') if file.is_file()]
        files = [file for file in files if '__pycache__' not in file.parts]
        assert {str(file.relative_to(ROOT)) for file in files} <= names
    pages = ('README', 'CHANGELOG', 'CODE_OF_CONDUCT', 'CONTRIBUTING', 'SECURITY')
    assert {'CITATION.cff', 'mkdocs.yml', *(f'{page}.md' for page in pages)} <= names


def test_the_wheel_carries_configs_and_launchers_for_mim(site):
    home = site / 'smd_mmdet' / '.mim'
    configs = {file.relative_to(ROOT) for file in (ROOT / 'configs').rglob('*.py')}
    assert configs == {file.relative_to(home) for file in home.glob('configs/**/*.py')}
    assert {'train.py', 'test.py', 'common.sh', 'dist_train.sh'} <= {
        file.name for file in (home / 'tools').iterdir()
    }
    assert yaml.safe_load((home / 'model-index.yml').read_text()) == {'Import': []}


def test_the_wheel_says_what_it_is_and_what_it_needs(site):
    [found] = metadata.distributions(name='smd_mmdet', path=[str(site)])
    about = found.metadata
    assert found.version == smd_mmdet.__version__
    assert about['License-Expression'] == 'Apache-2.0'
    assert about['Requires-Python'] == '>=3.10'
    assert about['Description-Content-Type'] == 'text/markdown'
    always = {
        re.match(r'\w+', need)[0] for need in found.requires if 'extra' not in need
    }
    assert always == {'numpy', 'pyarrow', 'rich', 'scipy', 'wrapt'}
    extras = {'torch', 'mmdet', 'mmpretrain', 'onedl', 'docs', 'plot', 'test'}
    assert set(about.get_all('Provides-Extra')) == extras
    [command] = found.entry_points
    assert (command.name, command.value) == ('smd', 'smd_mmdet.cli:main')


def test_the_wheel_holds_what_runs_and_no_source_of_it(site):
    names = {file.name for file in (site / 'smd_mmdet').rglob('*')}
    assert {'py.typed', 'recipes.json'} <= names
    assert not names & {'fused.c', 'setup.py'}


@pytest.mark.skipif(shutil.which('cc') is None, reason='needs a C compiler')
def test_the_installed_c_library_measures(site, tmp_path):
    code = """
import torch
from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor.kernels import cpu, plain

def instead(*_):
    raise AssertionError("torch's operations took the place of the C library")

plain.write = instead
w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
optimizer = torch.optim.SGD([w], lr=0.1)
with SphericalMotionMonitor(optimizer, {'w': w}) as monitor:
    w.grad = torch.tensor([-4.0, 3.0])
    optimizer.step()
    rows = monitor.collect()
print(cpu._library()._name, *rows['weight_norm_mean'], *rows['cosine_mean'])
"""
    found = run(sys.executable, '-c', code, cwd=tmp_path, path=site).stdout.split()
    library = Path(found[0])
    assert library.parent == site / 'smd_mmdet' / 'monitor' / 'kernels'
    assert library.name.startswith('_fused')
    # w = (3, 4) and g = (-4, 3) are at a right angle.
    assert float(found[1]) == pytest.approx(5)
    assert float(found[2]) == pytest.approx(0, abs=1e-6)


def test_an_installed_package_is_what_is_imported(site, tmp_path):
    (tmp_path / 'mine.py').write_text(f'_base_ = [{SHAPES!r}]\nmine = 1\n')
    code = """
import sys
from smd_mmdet import theory
assert 'torch' not in sys.modules and 'mmengine' not in sys.modules
from mmengine.config import Config
config = Config.fromfile('mine.py')
print(theory.__file__, config.mine, config.model.type, sep='\\n')
import smd_mmdet.engine, mmengine.hub
print(mmengine.hub.get_config(sys.argv[1]).custom_hooks[0].type)
"""
    found = run(sys.executable, '-c', code, SHAPES, cwd=tmp_path, path=site).stdout
    lines = found.split()
    assert Path(lines[0]) == site / 'smd_mmdet' / 'theory.py'
    assert lines[1:] == ['1', 'MaskRCNN', 'SMDHook']


def test_the_installed_command_says_what_it_is_and_what_it_has(site, tmp_path):
    smd = (sys.executable, site / 'bin' / 'smd')
    told = run(*smd, '--version', cwd=tmp_path, path=site).stdout
    assert told == f'smd {smd_mmdet.__version__}\n'
    found = json.loads(run(*smd, 'env', '--json', cwd=tmp_path, path=site).stdout)
    # A wheel is of no commit.
    assert found['smd_mmdet'] == {
        'version': smd_mmdet.__version__,
        'commit': None,
        'changed': None,
    }
    if shutil.which('cc'):
        assert found['devices'][0]['kernel'] == 'C library'


def test_the_installed_command_plans_a_shipped_config(site, tmp_path):
    smd = (sys.executable, site / 'bin' / 'smd')
    assert 'COMMAND' in run(*smd, '--help', cwd=tmp_path, path=site).stdout
    plan = run(
        *(*smd, 'plan', SHAPES, '--iters-per-epoch', 125, '--json'),
        cwd=tmp_path,
        path=site,
        check=False,
    )
    assert plan.returncode in (0, 1), plan.stderr
    assert json.loads(plan.stdout)['stages']


@pytest.mark.parametrize('launcher', ['train.py', 'dist_train.sh'])
def test_installed_launchers_find_shipped_configs(site, tmp_path, launcher):
    tool = site / 'smd_mmdet' / '.mim' / 'tools' / launcher
    python = launcher.endswith('.py')
    gpus = () if python else (1,)
    program = sys.executable if python else 'bash'
    options = ('--work-dir', 'run')
    done = run(
        *(program, tool, SHAPES, *gpus, *options),
        cwd=tmp_path,
        path=site,
        check=False,
    )
    # The shipped config was read, up to the data that are not there.
    assert done.returncode == 2
    assert 'error: no such file: data/shapes/annotations/' in done.stderr


def test_bases_are_found_in_a_checkout_too(tmp_path):
    from mmengine.config import Config

    (tmp_path / 'mine.py').write_text(f'_base_ = [{SHAPES!r}]\n')
    beside = ROOT / 'configs' / SHAPES.partition('::')[2]
    read = Config.fromfile(tmp_path / 'mine.py')
    assert read.to_dict() == Config.fromfile(beside).to_dict()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('smd_mmdet::shapes/none.py', 'no such config in the installed smd_mmdet'),
        ('no_such_package::a/b.py', 'which is not installed'),
        ('../evil::a/b.py', 'which is not installed'),
        ('::a/b.py', 'which is not installed'),
    ],
)
def test_a_config_that_is_not_there_is_named(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        find_config(name)


@pytest.mark.parametrize('package', ['torch', 'mmengine'])
def test_a_command_names_the_package_it_lacks(package):
    code = f'import sys; sys.modules[{package!r}] = None\n'
    code += 'from smd_mmdet.cli import main; sys.exit(main(["plan", "config.py"]))'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f'smd plan: error: it needs {package}')


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    from runs import write_run

    write_run(tmp_path)
    gone, out = os.pipe()
    os.close(gone)
    done = subprocess.run(
        [sys.executable, '-m', 'smd_mmdet.cli', 'check', '--json', tmp_path],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(out)
    assert (done.returncode, done.stderr) == (0, '')
