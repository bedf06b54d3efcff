"""A run in several processes: what is refused, who measures with whom, and consensus.

Consensus is what keeps the processes of a run alike. A value that may differ by chance
is taken from the main process (:func:`from_main`, :func:`computed_in_main`), and what
fails in one process is left undone in all of them (:func:`together`). A setting that
one process refuses is refused in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mmengine.dist import (
    broadcast_object_list,
    get_default_group,
    get_world_size,
    is_main_process,
)
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smd_mmdet.config.errors import SettingError
from smd_mmdet.monitor.shards import sharded

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = [
    'all_processes',
    'computed_in_main',
    'ddp_group',
    'from_main',
    'refuse_sharded',
    'together',
    'wrapped_parts',
]

T = TypeVar('T')
# Whether a setting is refused, and what is said of it or of any other fault.
_Told = tuple[bool, str]

SHARDING_STRATEGIES = ('DeepSpeedStrategy', 'FSDPStrategy', 'ColossalAIStrategy')


def refuse_sharded(runner: Runner, who: str) -> None:
    """Refuse a run in which a process has a part of the weights or of their state.

    Args:
        runner: The run, with its model wrapped and its optimizer built.
        who: Name of the hook that needs whole weights.

    Raises:
        SettingError: If the run is sharded; it names the setting and the fix.
    """
    if (found := _sharding_setting(runner)) is None:
        return
    setting, fix = found
    raise SettingError(
        f'{who}: {setting}: sharded training is not supported, each process has a '
        f'part of the weights or of their momentum; {fix}'
    )


def _sharding_setting(runner: Runner) -> tuple[str, str] | None:
    strategy = getattr(runner, 'strategy', None)
    for kind in type(strategy).__mro__:
        if kind.__name__ in SHARDING_STRATEGIES:
            return f'strategy.type={kind.__name__}', 'leave strategy out'
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if sharded([optimizer]):
        return (
            f'optim_wrapper.optimizer.type={type(optimizer).__name__}',
            'name the optimizer itself, such as optim_wrapper.optimizer.type=SGD',
        )
    if not isinstance(runner.model, nn.Module):
        return None
    if by := sharded(runner.model.modules()):
        return (
            f'model_wrapper_cfg.type={type(runner.model).__name__} ({by})',
            'set model_wrapper_cfg.type=MMDistributedDataParallel, or leave it out',
        )
    for name, parameter in runner.model.named_parameters():
        if by := sharded([parameter]):
            return (
                f'{name} is sharded by {by}',
                'leave that out of the model; MMDistributedDataParallel trains it on '
                'several GPUs',
            )
    return None


def ddp_group(model: nn.Module) -> dist.ProcessGroup | None:
    """The processes that can measure together; all of them must call this.

    Returns:
        A process group, or None where this process has no others or no weights in
        common with them.
    """
    if not isinstance(model, DistributedDataParallel):
        return None
    # MMSeparateDistributedDataParallel wraps the parts of a model and has no group.
    group = getattr(model, 'process_group', None)
    world = dist.get_world_size()
    if group is None or world == 1 or dist.get_world_size(group) != world:
        return None
    if dist.get_backend(group) == 'gloo':
        # Any, because torch 2.14 says that it may be no group; one of all ranks is one.
        everyone: Any = dist.new_group()
        return everyone
    # Two NCCL groups must not work at the same time, and each takes memory of the
    # GPU. In DDP's own the exchange comes after a step's gradients, on all ranks.
    return group


def wrapped_parts(model: nn.Module) -> list[str]:
    """The parts of a model that are wrapped for DDP one by one.

    Such a part waits in its forward or backward pass for the other processes, so one
    process alone must not run it.

    Args:
        model: The model, without a wrapper around it all.

    Returns:
        Their names.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, DistributedDataParallel)
    ]


def all_processes() -> dist.ProcessGroup | None:
    """The group of all processes of a run; None if there is only this one."""
    return None if get_world_size() == 1 else get_default_group()


def from_main(value: T) -> T:
    """The main process's value, in all processes; all of them must call this.

    Args:
        value: Anything that can be pickled; that of another process is dropped.
    """
    values = [value]
    broadcast_object_list(values)
    return values[0]


def computed_in_main(compute: Callable[[], T]) -> T:
    """What the main process computes, in all processes; all of them must call this.

    Args:
        compute: What the main process calls.

    Raises:
        SettingError: In all processes, if it is raised in the main one.
        RuntimeError: In all processes, if anything else goes wrong there.
    """
    value, fault = _attempt(compute) if is_main_process() else (None, None)
    told, value = from_main((_told(fault), value))
    if told is not None:
        raise _error([told]) from fault
    return cast('T', value)


def together(action: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """Do something in all processes; where it fails in one, it fails in all.

    Args:
        action: What this process does. It must not wait for the others.
        group: The processes, all of which must call this; None for this one alone.

    Returns:
        What the action returns.

    Raises:
        SettingError: If it was raised in a process.
        RuntimeError: If anything else failed in a process, which the message names.
        Exception: If this process is alone, whatever the action raised.
    """
    if group is None:
        return action()
    result, fault = _attempt(action)
    told: list[_Told | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, _told(fault), group)
    if any(told):
        raise _error(told) from fault
    return cast('T', result)


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return action(), None
    except Exception as fault:
        return None, fault


def _told(fault: Exception | None) -> _Told | None:
    """What the other processes learn of a fault."""
    if fault is None:
        return None
    if isinstance(fault, SettingError):
        return True, str(fault)
    return False, f'{type(fault).__name__}: {fault}'


def _error(told: Sequence[_Told | None]) -> Exception:
    """The one error of all processes, from what each of them tells."""
    failed = [(rank, *what) for rank, what in enumerate(told) if what is not None]
    for _, refused, text in failed:
        if refused:
            return SettingError(text)
    rank, _, text = failed[0]
    return RuntimeError(f'process {rank}: {text}')
