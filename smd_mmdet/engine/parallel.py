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
from smd_mmdet.monitor.shards import holds_several, is_flattened, sharded

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = [
    'all_processes',
    'computed_in_main',
    'from_main',
    'measuring_group',
    'refuse_parts',
    'refuse_sharded',
    'together',
    'wrapped_parts',
]

T = TypeVar('T')
# Whether a setting is refused, and what is said of it or of any other fault.
_Told = tuple[bool, str]

SHARDING_STRATEGIES = ('DeepSpeedStrategy', 'FSDPStrategy', 'ColossalAIStrategy')
# How torch's FullyShardedDataParallel may hold each weight once.
ONCE = ('FULL_SHARD', 'SHARD_GRAD_OP')


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
        f'{who}: {setting}: each process has a part of the weights or of their '
        f'momentum, and here they are needed whole; {fix}'
    )


def refuse_parts(runner: Runner, who: str, granularity: str = 'layer') -> None:
    """Refuse a run whose weights cannot be measured part by part.

    Args:
        runner: The run, with its model wrapped and its optimizer built.
        who: Name of the hook that measures.
        granularity: Whether it measures 'layer' or 'filter'.

    Raises:
        SettingError: It names the setting, and says why and what would work.
    """
    if (found := _unmeasurable(runner, granularity)) is not None:
        setting, why, fix = found
        raise SettingError(f'{who}: {setting}: {why}; {fix}')


def _unmeasurable(runner: Runner, granularity: str) -> tuple[str, str, str] | None:
    """A setting, what is wrong with it, and what would work."""
    strategy = _strategy(runner)
    if strategy in ('DeepSpeedStrategy', 'ColossalAIStrategy'):
        return (
            f'strategy.type={strategy}',
            'it steps on flat copies of its own of the weights, and no parameter has '
            'its gradient then',
            'set strategy.type=FSDPStrategy, or leave strategy out',
        )
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if getattr(optimizer, '_overlap_with_ddp', False):
        return (
            'optim_wrapper.optimizer.overlap_with_ddp=True',
            'the optimizer makes no step of its own',
            'leave it out',
        )
    if not isinstance(runner.model, nn.Module):
        return None
    if sharded(runner.model.modules()) is None:
        return None
    if strategy is None:
        return (
            f'model_wrapper_cfg.type={type(runner.model).__name__}',
            "MMEngine's Runner does not train it in several processes: it sends the "
            'parts of the first one to all',
            'train by FlexibleRunner with strategy.type=FSDPStrategy, or set '
            'model_wrapper_cfg.type=MMDistributedDataParallel',
        )
    return _unmeasurable_fsdp(runner.model, granularity)


def _unmeasurable_fsdp(
    model: nn.Module, granularity: str
) -> tuple[str, str, str] | None:
    here = 'strategy.model_wrapper'
    for module in model.modules():
        how = getattr(getattr(module, 'sharding_strategy', None), 'name', None)
        if how is not None and how not in ONCE and get_world_size() > 1:
            return (
                f'{here}.sharding_strategy={how}',
                'several processes hold the same part of a weight',
                f'set {here}.sharding_strategy=FULL_SHARD',
            )
    if any(map(holds_several, model.parameters())):
        return (
            f'{here}.use_orig_params=False',
            'a flat parameter holds several weights in one',
            f'set {here}.use_orig_params=True',
        )
    if granularity == 'filter' and any(map(is_flattened, model.parameters())):
        return (
            'granularity=filter',
            'FullyShardedDataParallel cuts filters at any element',
            'set granularity=layer',
        )
    return None


def _strategy(runner: Runner) -> str | None:
    """The name of the strategy that shards a run of FlexibleRunner."""
    for kind in type(getattr(runner, 'strategy', None)).__mro__:
        if kind.__name__ in SHARDING_STRATEGIES:
            return kind.__name__
    return None


def _sharding_setting(runner: Runner) -> tuple[str, str] | None:
    if (strategy := _strategy(runner)) is not None:
        return f'strategy.type={strategy}', 'leave strategy out'
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


def measuring_group(model: nn.Module, optimizer: object) -> dist.ProcessGroup | None:
    """The processes that can measure together; all of them must call this.

    Args:
        model: The run's model, with what wraps it.
        optimizer: What trains it.

    Returns:
        A process group, or None where this process has no others or no weights in
        common with them.
    """
    if sharded([optimizer, *model.parameters()]) is not None:
        return _one_like(dist.group.WORLD)
    if not isinstance(model, DistributedDataParallel):
        return None
    # MMSeparateDistributedDataParallel wraps the parts of a model and has no group.
    group = getattr(model, 'process_group', None)
    world = dist.get_world_size()
    if group is None or world == 1 or dist.get_world_size(group) != world:
        return None
    return _one_like(group)


def _one_like(group: Any) -> dist.ProcessGroup:
    """A group of all processes whose exchanges get in nobody's way.

    Args:
        group: The group that training uses.
    """
    if dist.get_backend(group) == 'gloo':
        # Any, because torch 2.14 says that it may be no group; one of all ranks is one.
        everyone: Any = dist.new_group()
        return everyone
    # Two NCCL groups must not work at the same time, and each takes memory of the
    # GPU. In training's own the exchange comes after a step's gradients, on all ranks.
    training: dist.ProcessGroup = group
    return training


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
