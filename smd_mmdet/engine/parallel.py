"""How a run is spread over processes: what is refused, and who measures with whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smd_mmdet.config.errors import SettingError
from smd_mmdet.monitor.sharing import sharded

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['ddp_group', 'refuse_sharded']

SHARDING_STRATEGIES = ('DeepSpeedStrategy', 'FSDPStrategy', 'ColossalAIStrategy')


def refuse_sharded(runner: Runner, who: str) -> None:
    """Refuse a run in which a process has a part of the weights or of their state.

    Args:
        runner: The run, its model wrapped and its optimizer built.
        who: The hook that needs whole weights.

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
    world = dist.get_world_size()
    if world == 1 or dist.get_world_size(model.process_group) != world:
        return None
    if dist.get_backend(model.process_group) == 'gloo':
        return dist.new_group()
    # Two NCCL groups must not work at the same time, and each takes memory of the
    # GPU. In DDP's own the exchange comes after a step's gradients, on all ranks.
    return model.process_group
