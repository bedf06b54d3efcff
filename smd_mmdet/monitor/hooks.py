"""Step hooks where the compiler of torch 2.1 takes them away."""

import importlib

import torch
from torch.optim import Optimizer

__all__ = ['keep_step_hooks']


def keep_step_hooks(optimizer: Optimizer) -> None:
    """See to it that an optimizer goes on calling the hooks of its step.

    When torch 2.1 compiles for the first time, be it another model, it takes the hooks
    from the steps of all of torch's optimizers, without a word. It does so once, so
    here it does it at once and the hooks are put back.

    Args:
        optimizer: The optimizer; its class is repaired.
    """
    if torch.__version__.split('.')[:2] != ['2', '1']:
        return
    importlib.import_module('torch._dynamo.eval_frame').TorchPatcher.patch()
    kind, hooked = type(optimizer), Optimizer.profile_hook_step
    if getattr(kind.step, '__code__', None) is not hooked(kind.step).__code__:
        kind.step = hooked(kind.step)  # type: ignore[assignment]
        kind.step.hooked = True  # type: ignore[attr-defined]
