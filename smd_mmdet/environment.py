"""What an installation and its machine are made of, as ``smd env`` prints it.

It is made to be pasted into a report of a fault, so it has to come to an end also where
something is broken: whatever cannot be told is told as that. Each package is looked at
only if it is there, and nothing but the standard library and rich is needed.
"""

import contextlib
import importlib
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from smd_mmdet import __version__
from smd_mmdet._text import first_line, one_line, visible
from smd_mmdet.launch.threads import choose, cores_allowed

__all__ = ['environment', 'own_version', 'render_environment']

# Modules, and the distributions that may have brought them.
PACKAGES = {
    'torch': ('torch',),
    'triton': ('triton', 'pytorch-triton', 'pytorch-triton-rocm'),
    'numpy': ('numpy',),
    'mmengine': ('mmengine', 'onedl-mmengine', 'mmengine-lite'),
    'mmcv': ('mmcv', 'onedl-mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'torchvision': ('torchvision',),
    'cv2': ('opencv-python-headless', 'opencv-python', 'opencv-contrib-python'),
    'pycocotools': ('pycocotools',),
    'pyarrow': ('pyarrow',),
    'scipy': ('scipy',),
    'rich': ('rich',),
    'wrapt': ('wrapt',),
    'matplotlib': ('matplotlib',),
    'plotly': ('plotly',),
    'jinja2': ('Jinja2',),
}
# Versions that do not go together are seen at import: pyarrow's with NumPy's, mmdet's
# with mmcv's. The others take long, or fail alone.
IMPORTED = ('numpy', 'pyarrow', 'torch', 'mmengine', 'mmcv', 'mmdet')
BACKENDS = ('nccl', 'gloo', 'mpi', 'ucc', 'xccl')
# A program that hangs is not waited for.
PATIENCE = 10
NOT_INSTALLED = 'not installed'


def environment() -> dict[str, Any]:
    """Find out what is installed, what the machine has, and what measures on it.

    Returns:
        Plain values: ``smd_mmdet`` (version, and of a checkout its commit),
        ``python``, ``system``, ``processor`` (cores, those that this process may use,
        and the threads that the launchers would take), ``packages`` (by module:
        version, distribution, and why it does not import), ``torch_built`` and
        ``mmcv_operators`` (for which devices), ``devices`` (with the kernel that
        measures there, and why), ``distributed`` (names of backends) and ``mmengine``
        (what MMEngine's ``collect_env`` tells). What belongs to a package that is
        missing is None.

    Example:
        >>> found = environment()
        >>> found['smd_mmdet']['version'] == __version__
        True
        >>> [device['device'] for device in found['devices']][:1]
        ['cpu']
    """
    # What packages print or warn of while they are imported is none of the answer.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        packages = {module: _package(module) for module in PACKAGES}
        has_torch = _works(packages['torch'])
        return {
            'smd_mmdet': own_version(),
            'python': platform.python_version(),
            'system': platform.platform(),
            'processor': _processor(),
            'packages': packages,
            'torch_built': _torch_built() if has_torch else None,
            'mmcv_operators': _operators() if _works(packages['mmcv']) else None,
            'devices': _devices() if has_torch else None,
            'distributed': _backends() if has_torch else None,
            'mmengine': _collected() if _works(packages['mmengine']) else None,
        }


# ------------------------------------------------------------------ ourselves


def own_version() -> dict[str, Any]:
    """Our version, and in a checkout its commit and whether files have changed."""
    root = Path(__file__).resolve().parents[1]
    commit, changed = None, None
    if (root / 'pyproject.toml').is_file() and (root / '.git').exists():
        commit = _output('git', '-C', str(root), 'rev-parse', '--short=10', 'HEAD')
        status = ('status', '--porcelain', '--untracked-files=no')
        changes = _output('git', '-C', str(root), *status)
        changed = None if changes is None else bool(changes)
    return {'version': __version__, 'commit': commit, 'changed': changed}


def _output(*command: str) -> str | None:
    """What a program prints; None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors='replace',
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# ------------------------------------------------------------------ the machine


def _processor() -> dict[str, Any]:
    given = os.environ.get('OMP_NUM_THREADS')
    choice = choose(steady=True)
    return {
        'name': _processor_name(),
        'cores': os.cpu_count(),
        'usable': cores_allowed(),
        'threads': int(given) if given and given.isdecimal() else choice.threads,
        'reason': f'OMP_NUM_THREADS={given}' if given else choice.reason,
    }


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text(errors='replace').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------ packages


def _package(module: str) -> dict[str, str | None]:
    version, distribution = None, None
    for name in PACKAGES[module]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            version, distribution = metadata.version(name), name
            break
    fault = None
    if module in IMPORTED:
        try:
            imported = importlib.import_module(module)
            # One that lies in a folder on the path has no distribution.
            version = version or str(getattr(imported, '__version__', 'unknown'))
        except ModuleNotFoundError as error:
            if error.name != module:
                fault = _said(error)
            elif version is not None:
                fault = 'its distribution is there, the module is not'
        except Exception as error:  # any, from a library of C++ say
            fault = _said(error)
            version = version or 'unknown'
    return {'version': version, 'distribution': distribution, 'fault': fault}


def _works(package: dict[str, str | None]) -> bool:
    return package['version'] is not None and package['fault'] is None


def _said(error: Exception) -> str:
    return one_line(f'{type(error).__name__}: {first_line(error)}', 300)


def _torch_built() -> str:
    import torch

    if torch.version.cuda:
        return f'built for CUDA {torch.version.cuda}'
    hip = getattr(torch.version, 'hip', None)
    return f'built for ROCm {hip}' if hip else 'built without CUDA'


def _operators() -> str:
    """What mmcv's compiled operators run on."""
    try:
        from mmcv.utils import ext_loader

        names = ['get_compiler_version', 'get_compiling_cuda_version']
        extension = ext_loader.load_ext('_ext', names)
        cuda = str(extension.get_compiling_cuda_version())
        compiler = str(extension.get_compiler_version())
    except Exception as error:
        return f'no operators that work: {_said(error)}'
    # 'not available' is what those say that were built for the CPU alone.
    on = 'the CPU only' if cuda == 'not available' else f'CUDA {cuda} and the CPU'
    return f'operators for {on}, built by {compiler}'


def _collected() -> dict[str, Any]:
    """What MMEngine logs of the environment at the beginning of a run."""
    try:
        from mmengine.utils.dl_utils import collect_env

        plain = (bool, int, str, type(None))
        return {
            name: value if isinstance(value, plain) else str(value)
            for name, value in collect_env().items()
        }
    except Exception as error:
        return {'fault': _said(error)}


# ------------------------------------------------------------------ devices


def _devices() -> list[dict[str, Any]]:
    """The devices that torch sees, and what measures on each."""
    import torch

    found = [_device('cpu', 'the processor')]
    for kind, count, about in _accelerators():
        for i in range(count):
            try:
                found.append(_device(f'{kind}:{i}', **about(i)))
            except Exception as error:
                found.append(_device(f'{kind}:{i}', f'not to be asked: {_said(error)}'))
    unseen = [] if torch.cuda.is_available() else _gpus_of_the_driver()
    for name, driver in unseen:
        why = 'torch does not see it'
        if torch.version.cuda is None:
            why = f'torch {torch.__version__} is built without CUDA'
        known = {'device': None, 'name': name, 'driver': driver, 'capability': None}
        found.append({**known, 'kernel': None, 'why': why})
    return found


def _device(
    device: str, name: str, driver: str | None = None, capability: str | None = None
) -> dict[str, Any]:
    about = {'device': device, 'name': name, 'driver': driver, 'capability': capability}
    try:
        kernel, why = _kernel(device)
    except Exception as error:
        kernel, why = None, f'nothing measures there: {_said(error)}'
    return {**about, 'kernel': kernel, 'why': why}


def _accelerators() -> Iterator[tuple[str, int, Callable[[int], dict[str, Any]]]]:
    """Kind, number, and what tells about one of them."""
    import torch

    if torch.cuda.is_available():
        drivers = [driver for _, driver in _gpus_of_the_driver()]

        def about(i: int) -> dict[str, Any]:
            seen = torch.cuda.get_device_properties(i)
            return {
                'name': f'{seen.name}, {seen.total_memory / 2**30:.0f} GiB',
                'driver': drivers[0] if drivers else None,  # one for all
                'capability': f'{seen.major}.{seen.minor}',
            }

        yield 'cuda', torch.cuda.device_count(), about
    if torch.backends.mps.is_available():
        yield 'mps', 1, lambda _: {'name': 'GPU of Apple'}
    xpu = getattr(torch, 'xpu', None)
    if xpu is not None and xpu.is_available():
        yield 'xpu', xpu.device_count(), lambda i: {'name': xpu.get_device_name(i)}


def _gpus_of_the_driver() -> list[tuple[str, str]]:
    """Name and driver of the GPUs of NVIDIA that the machine has."""
    query = ('--query-gpu=name,driver_version', '--format=csv,noheader')
    lines = (_output('nvidia-smi', *query) or '').splitlines()
    rows = [line.rpartition(',') for line in lines if ',' in line]
    return [(name.strip(), driver.strip()) for name, _, driver in rows]


def _kernel(device: str) -> tuple[str | None, str]:
    """What takes the inner products on a device, and why: it is let do so once."""
    import torch

    from smd_mmdet.monitor.kernels import cpu, gpu, gram

    w, g = torch.tensor([3.0, 4.0], device=device), torch.ones(2, device=device)
    out = torch.empty(1, 6, dtype=torch.float64, device=device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        gram([(w, g, g)], out)
    if (products := out.tolist()) != [[25.0, 7.0, 7.0, 2.0, 2.0, 2.0]]:
        return None, f'wrong products of (3, 4) and (1, 1): {products}'
    if cpu.supports(out.device):
        return 'C library', 'it was compiled at installation'
    if gpu.supports(out.device):
        return 'Triton', 'it compiles for this GPU'
    return "torch's operations", _why_plain(device, [str(w.message) for w in caught])


def _why_plain(device: str, warned: list[str]) -> str:
    if device == 'cpu':
        folder = Path(__file__).parent / 'monitor' / 'kernels'
        there = sorted(file.name for file in folder.glob('_fused*'))
        if there:
            return f'{", ".join(there)} was built for another Python or machine'
        return 'the C library was not compiled at installation: no C compiler, say'
    if device.startswith('cuda'):
        return one_line(warned[0], 300) if warned else 'Triton is not installed'
    return 'they serve every device'


def _backends() -> list[str]:
    """The backends that processes can exchange by."""
    from torch import distributed

    if not distributed.is_available():
        return []
    asked = ((name, f'is_{name}_available') for name in BACKENDS)
    return [n for n, check in asked if getattr(distributed, check, lambda: False)()]


# ------------------------------------------------------------------ as a table


def render_environment(found: dict[str, Any]) -> RenderableType:
    """The environment as two columns.

    Args:
        found: What :func:`environment` returns.

    Returns:
        A table that rich prints, also in 80 columns; lines are broken, never cut.

    Example:
        >>> from rich.console import Console
        >>> found = dict(smd_mmdet=dict(version='0.2.0', commit=None, changed=None))
        >>> found |= dict(python='3.11.7', system='Linux', packages={}, devices=None)
        >>> found |= dict(processor=dict(name='a CPU', cores=64, usable=2.0,
        ...               threads=2, reason='2 of 64 cores allowed'), mmengine=None)
        >>> Console(width=80).print(render_environment(found))
        smd_mmdet    0.2.0
        Python       3.11.7
        system       Linux
        processor    a CPU, 2 of 64 cores usable
        threads      2 (2 of 64 cores allowed)
        devices      not known without torch
        distributed  not known without torch
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for name, text in _lines(found):
        table.add_row(Text(name, style='bold'), Text(visible(text)))
    return table


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield 'smd_mmdet', _our_line(found['smd_mmdet'])
    yield 'Python', found['python']
    yield 'system', found['system']
    cpu = found['processor']
    yield (
        'processor',
        f'{cpu["name"]}, {cpu["usable"]:g} of {cpu["cores"]} cores usable',
    )
    yield 'threads', f'{cpu["threads"]} ({cpu["reason"]})'
    collected = found['mmengine'] or {}
    for name in ('GCC', 'CUDA_HOME', 'NVCC', 'fault'):
        if name in collected:
            yield 'collect_env' if name == 'fault' else name, str(collected[name])
    for module, package in found['packages'].items():
        more = {'torch': found['torch_built'], 'mmcv': found['mmcv_operators']}
        yield module, _package_line(module, package, more.get(module) or '')
    if found['devices'] is None:
        yield 'devices', 'not known without torch'
        yield 'distributed', 'not known without torch'
        return
    for device in found['devices']:
        yield device['device'] or 'GPU', _device_line(device)
    yield 'distributed', ', '.join(found['distributed']) or 'no backend'


def _our_line(ours: dict[str, Any]) -> str:
    if ours['commit'] is None:
        return ours['version']
    changes = ', with changes' if ours['changed'] else ''
    return f'{ours["version"]}, a checkout at {ours["commit"]}{changes}'


def _package_line(module: str, package: dict[str, str | None], more: str) -> str:
    if package['version'] is None:
        return package['fault'] or NOT_INSTALLED
    parts = [package['version']]
    if (package['distribution'] or module).lower() != module:
        parts.append(f'of {package["distribution"]}')
    parts += [more] if more else []
    if package['fault']:
        parts.append(f'does not import: {package["fault"]}')
    return ', '.join(parts)


def _device_line(device: dict[str, Any]) -> str:
    parts = [device['name']]
    if device['capability']:
        parts.append(f'capability {device["capability"]}')
    if device['driver']:
        parts.append(f'driver {device["driver"]}')
    measures = 'nothing measures' if device['kernel'] is None else device['kernel']
    return f'{", ".join(parts)}; measured by: {measures} ({device["why"]})'
