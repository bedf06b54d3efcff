"""Makes a config ready for the machine it runs on, or refuses it.

MMEngine starts the processes of a distributed run on GPUs only. Here they run on a
machine without GPUs too, over gloo, which is what the tests and a first try need.
"""

import datetime
import os
import subprocess
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.types import names_class, type_name

__all__ = ['prepare']

SYNC_NORMS = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm', 'NaiveSyncBatchNorm')


def prepare(cfg: Config, training: bool = True) -> None:
    """Make a config ready for this machine; call it before building the runner.

    On a machine without an accelerator this creates the process group of a
    distributed run, which MMEngine does on GPUs only, and sets
    ``cfg.model_wrapper_cfg`` such that the model is wrapped for the CPU.

    Args:
        cfg: The whole config; its ``launcher`` says what started the processes.
        training: Whether the run trains; mixed precision and SyncBN matter only then.

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
    """Set a port that all processes of a Slurm step share and other steps do not."""
    try:
        step = 100 * int(env['SLURM_JOB_ID']) + int(env.get('SLURM_STEP_ID', 0))
    except (KeyError, ValueError):
        return  # MMEngine takes 29500
    env.setdefault('MASTER_PORT', str(20000 + step % 10000))


def _check_gpus(launcher: str) -> None:
    """Refuse more processes than GPUs, for which torch has only 'invalid ordinal'."""
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
    """Refuse mixed precision, which MMEngine has on accelerators only."""
    wrapper = cfg.get('optim_wrapper') or {}
    if names_class(wrapper, 'AmpOptimWrapper'):
        raise SettingError(
            'mixed precision (--amp, AmpOptimWrapper) needs a GPU and this run is on '
            'the CPU: leave --amp out or set optim_wrapper.type=OptimWrapper'
        )


def _refuse_sync_norm(cfg: Config) -> None:
    """Refuse norms in train mode that exchange statistics, which only GPUs can."""
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
    """Give the path and type of every such norm below a node of the config."""
    if isinstance(node, Mapping):
        if (name := type_name(node)) in SYNC_NORMS:
            yield path, name
        # A norm in evaluation mode uses stored statistics, and works on any device.
        if node.get('norm_eval'):
            return
        for key, value in node.items():
            yield from _sync_norms(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _sync_norms(value, f'{path}.{i}')


def _init_cpu_processes(cfg: Config, launcher: str) -> None:
    """Create the process group, over gloo."""
    if dist.is_initialized():
        return
    try:
        _set_ranks(os.environ, launcher)
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


def _set_ranks(env: MutableMapping[str, str], launcher: str) -> None:
    """Set the variables that torch reads, from those of Slurm or MPI.

    Raises:
        KeyError: With the name of a variable that is missing.
    """
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


def _first_host(nodes: str) -> str:
    """The first name in Slurm's list of nodes, such as node[01-04]."""
    command = ['scontrol', 'show', 'hostnames', nodes]
    try:
        return subprocess.check_output(command, text=True).split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise SettingError(
            f'--launcher slurm: scontrol does not tell the first of the nodes {nodes} '
            f'({error}): set MASTER_ADDR to it'
        ) from None


def _wrap_for_cpu(cfg: Config) -> None:
    """Let the wrapper for distributed training leave the model on the CPU."""
    wrapper = cfg.get('model_wrapper_cfg')
    if wrapper is None:
        # MMEngine's Runner.wrap_model takes these where the config says nothing.
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    kind = wrapper.get('type', 'MMDistributedDataParallel')
    if isinstance(kind, str):
        kind = MODEL_WRAPPERS.get(kind)
    if isinstance(kind, type) and issubclass(kind, DistributedDataParallel):
        # Without this, MMEngine's Runner sets the GPU of number LOCAL_RANK.
        wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper
