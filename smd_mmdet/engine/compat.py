"""Where MMEngine 0.10.7 and today's PyTorch disagree, and what a CPU run needs.

Importing this module lets ``torch.load(weights_only=True)`` read MMEngine's own
checkpoints; :func:`allow_mmpretrain` lets MMPretrain import without torchvision;
:func:`prepare` readies a config for the machine it runs on.
"""

import datetime
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from enum import Enum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .errors import SettingError

__all__ = ['allow_mmengine_checkpoints', 'allow_mmpretrain', 'prepare']

STATISTICS = ('current', 'max', 'mean', 'min')
SYNC_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm', 'NaiveSyncBatchNorm')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read the message hub in MMEngine's checkpoints.

    A checkpoint holds the history of every logged scalar: ``HistoryBuffer``
    objects around numpy arrays, and numpy scalars. Since torch 2.6 loading
    refuses any class that is not allowed by name. Only these are added, all
    plain data: a checkpoint that would run code is refused as before. A buffer
    also pickles four of its own methods, as ``getattr(HistoryBuffer, 'mean')``;
    to allow ``getattr`` itself would let a checkpoint reach anything, so in a
    checkpoint that name now stands for :func:`_statistic`, which gives these four.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):  # torch < 2.5
        return
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    classes = {HistoryBuffer, np.ndarray, np.dtype}
    # Numbers only: an object array could hold anything.
    classes |= {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    # With their names: the fork of MMEngine takes bare classes back after each load.
    allowed: list[Any] = [(c, f'{c.__module__}.{c.__qualname__}') for c in classes]
    allowed.append((_statistic, 'builtins.getattr'))
    # A checkpoint names numpy's private module as it was when it was written:
    # numpy.core until 1.26, numpy._core since.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed.append((reconstruct, f'{module}._reconstruct'))
        allowed.append((scalar, f'{module}.scalar'))
    torch.serialization.add_safe_globals(allowed)


def _statistic(owner: Any, name: Any) -> Any:
    if owner is HistoryBuffer and name in STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner}, {name})')


def allow_mmpretrain(cfg: Config) -> None:
    """Let MMPretrain import without torchvision, if a config uses MMPretrain.

    MMPretrain imports torchvision and needs it for a few transforms only, but its
    wheels on PyPI do not import beside a CPU build of torch. Where it is missing a
    stand-in takes its place, with the names that MMPretrain's modules look up as they
    are loaded. To use any other of them fails as without it.
    """
    if 'mmpretrain' not in str(cfg.to_dict()) or find_spec('torchvision') is not None:
        return
    names = ('', '.transforms', '.transforms.functional', '.transforms.transforms')
    for name in (*names, '.ops', '.ops.boxes'):
        name = f'torchvision{name}'
        module: Any = module_from_spec(ModuleSpec(name, None))
        sys.modules[name] = module
        module.__getattr__ = _no_torchvision
        module.__path__ = []
        parent, _, child = name.rpartition('.')
        if parent:
            setattr(sys.modules[parent], child, module)
    vars(sys.modules['torchvision'])['__version__'] = 'not installed'
    modes = ('NEAREST', 'BILINEAR', 'BICUBIC', 'BOX', 'HAMMING', 'LANCZOS')
    transforms: Any = sys.modules['torchvision.transforms']
    mode = Enum('InterpolationMode', modes)  # type: ignore[misc]
    transforms.transforms.InterpolationMode = mode
    transforms.RandomResizedCrop = _NoTransform


class _NoTransform:
    def __init__(self, *args, **kwargs) -> None:
        raise ImportError(f'{type(self).__name__} needs torchvision')


def _no_torchvision(name: str) -> Any:
    raise AttributeError(f'{name} needs torchvision, which is not installed')


def prepare(cfg: Config, training: bool = True) -> None:
    """Ready a config for this machine; call before building the Runner.

    On a machine without an accelerator it creates the process group of a
    distributed run, which MMEngine can only do with GPUs, and sets
    ``cfg.model_wrapper_cfg`` so that the model is wrapped for the CPU.

    Args:
        cfg: The whole config; ``launcher`` tells how processes were started.
        training: Whether the run trains: some settings matter only then.

    Raises:
        SettingError: If the config cannot run on this machine.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'slurm':
        _choose_port(os.environ)
    if get_device() != 'cpu':
        _check_gpus(launcher)
        return
    if training:
        _refuse_amp(cfg)
    if launcher == 'none':
        return
    if training:
        _refuse_sync_norm(cfg)
    _init_cpu_processes(cfg, launcher)
    _wrap_for_cpu(cfg)


def _choose_port(env: MutableMapping[str, str]) -> None:
    """The same in all processes of a Slurm step, another one in other steps."""
    try:
        step = 100 * int(env['SLURM_JOB_ID']) + int(env.get('SLURM_STEP_ID', 0))
    except (KeyError, ValueError):
        return  # MMEngine's, 29500
    env.setdefault('MASTER_PORT', str(20000 + step % 10000))


def _check_gpus(launcher: str) -> None:
    variable = {'pytorch': 'LOCAL_RANK', 'slurm': 'SLURM_LOCALID'}.get(launcher)
    if variable is None or not torch.cuda.is_available():
        return
    local_rank, visible = int(os.environ.get(variable, 0)), torch.cuda.device_count()
    if local_rank >= visible:
        raise SettingError(
            f'more processes than GPUs: this machine shows {visible}, and process '
            f'{local_rank + 1} has none; start at most {visible}'
        )


def _refuse_amp(cfg: Config) -> None:
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        raise SettingError(
            'mixed precision (--amp, AmpOptimWrapper) needs a GPU and this run is on '
            'the CPU: leave --amp out or set optim_wrapper.type=OptimWrapper'
        )


def _refuse_sync_norm(cfg: Config) -> None:
    if cfg.get('sync_bn'):
        raise SettingError(
            f'sync_bn={cfg.sync_bn!r} turns BN into SyncBN, which needs GPUs: leave '
            'it out in a multi-process run on the CPU'
        )
    found = list(_sync_norms(cfg.get('model') or {}, 'model'))
    if found:
        instead = ' '.join(f'{path}.type=BN' for path, _ in found)
        raise SettingError(
            f'{found[0][1]} in norm_cfg needs GPUs: a multi-process run on the CPU '
            f'takes BN or GN (--cfg-options {instead})'
        )


def _sync_norms(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        name = node.get('type')
        if isinstance(name, str) and name.split('.')[-1] in SYNC_NORMS:
            yield path, name
        # In evaluation mode it normalizes by stored statistics, on any device.
        if node.get('norm_eval'):
            return
        for key, value in node.items():
            yield from _sync_norms(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _sync_norms(value, f'{path}.{i}')


def _init_cpu_processes(cfg: Config, launcher: str) -> None:
    if dist.is_initialized():
        return
    env = os.environ
    try:
        if launcher == 'slurm':
            nodes = env['SLURM_NODELIST']
            env['RANK'], env['WORLD_SIZE'] = env['SLURM_PROCID'], env['SLURM_NTASKS']
            env['LOCAL_RANK'] = env.get('SLURM_LOCALID', '0')
            if 'MASTER_ADDR' not in env:
                env['MASTER_ADDR'] = _first_host(nodes)
        elif launcher == 'mpi':
            env['RANK'] = env['OMPI_COMM_WORLD_RANK']
            env['WORLD_SIZE'] = env['OMPI_COMM_WORLD_SIZE']
            env['LOCAL_RANK'] = env['OMPI_COMM_WORLD_LOCAL_RANK']
        if launcher != 'pytorch':
            env.setdefault('MASTER_PORT', '29500')
        for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
            env[name]
    except KeyError as error:
        raise SettingError(
            f'--launcher {launcher}: the environment variable {error.args[0]} is '
            'missing; was this process started by that launcher?'
        ) from None
    dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    options: dict[str, Any] = {}
    if 'timeout' in dist_cfg:
        options['timeout'] = datetime.timedelta(seconds=dist_cfg['timeout'])
    dist.init_process_group('gloo', **options)


def _first_host(nodes: str) -> str:
    command = ['scontrol', 'show', 'hostnames', nodes]
    try:
        return subprocess.check_output(command, text=True).split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise SettingError(
            f'--launcher slurm: scontrol does not tell the first of the nodes {nodes} '
            f'({error}): set MASTER_ADDR to it'
        ) from None


def _wrap_for_cpu(cfg: Config) -> None:
    wrapper = cfg.get('model_wrapper_cfg')
    if wrapper is None:
        # What Runner.wrap_model uses when it is given nothing.
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    kind = wrapper.get('type', 'MMDistributedDataParallel')
    if isinstance(kind, str):
        kind = MODEL_WRAPPERS.get(kind)
    if isinstance(kind, type) and issubclass(kind, DistributedDataParallel):
        # Otherwise the Runner fills in LOCAL_RANK, as a GPU.
        wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper


allow_mmengine_checkpoints()
