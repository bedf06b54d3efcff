"""What the hooks ask of a run before they begin their work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer

from smd_mmdet.config.errors import SettingError
from smd_mmdet.invariance import ScaleInvariance

from .layers import find_layers

if TYPE_CHECKING:  # MMEngine's runner imports its hooks, and with them this file
    from mmengine.runner import Runner

__all__ = ['accumulated', 'model_of', 'optimizer_of', 'scale_invariance_of']


def optimizer_of(runner: Runner, hook: str) -> Optimizer:
    """The one optimizer of a run.

    Args:
        runner: The run.
        hook: Name of the hook that asks, for the message.

    Raises:
        SettingError: If there are several optimizers, or one is SGD in a form that
            the theory does not hold for.
    """
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, OptimWrapper):
        raise SettingError(
            f'{hook}: optim_wrapper holds several optimizers; the hook is for runs '
            'with a single one'
        )
    for group in wrapper.optimizer.param_groups:
        for key, fix in (('nesterov', False), ('dampening', 0)):
            if group.get(key):
                raise SettingError(
                    f'{hook}: optim_wrapper.optimizer.{key}={group[key]}: the theory '
                    f'holds for SGD without it; set {key}={fix}'
                )
    return wrapper.optimizer


def accumulated(runner: Runner) -> int:
    """How many iterations make one step of the optimizer."""
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def model_of(runner: Runner) -> nn.Module:
    """The model of a run, without the wrapper that DDP puts around it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def scale_invariance_of(runner: Runner) -> list[ScaleInvariance]:
    """What is known of each parameter of a run's model.

    SMDOptimWrapperConstructor has found it already and may have been told better by
    its settings; in a run without it the model is looked at now.
    """
    known = getattr(runner.optim_wrapper, 'scale_invariance', None)
    return find_layers(model_of(runner)) if known is None else known
