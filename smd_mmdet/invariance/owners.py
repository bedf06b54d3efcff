"""Which module made which node of the graph."""

import bisect

import torch
from torch import nn

from .operations import saved_attribute
from .undisturbed import is_norm


class Owners:
    """Names the module during whose forward a graph node was made.

    Autograd numbers its nodes in the order of creation, so the innermost module
    call whose interval of numbers holds the node's made it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._probe = torch.ones((), requires_grad=True)
        self._numbers: list[int] = [-1]
        self._modules: list[nn.Module] = [model]
        self._stack = [model]

    def _note(self) -> None:
        with torch.enable_grad():
            number = (self._probe * 1).grad_fn._sequence_nr()
        self._numbers.append(number)
        self._modules.append(self._stack[-1])

    def _enter(self, module: nn.Module, _) -> None:
        self._stack.append(module)
        self._note()

    def _leave(self, module: nn.Module, *_) -> None:
        # A forward that raised and was caught leaves its module on the stack.
        while len(self._stack) > 1 and self._stack.pop() is not module:
            pass
        self._note()

    def watch(self) -> None:
        for module in self._names:
            module.register_forward_pre_hook(self._enter, prepend=True)
            module.register_forward_hook(self._leave)

    def owner(self, node) -> nn.Module:
        place = bisect.bisect_right(self._numbers, node._sequence_nr()) - 1
        return self._modules[place]

    def name(self, node) -> str:
        return self._names[self.owner(node)] or 'the model itself'

    def statistics(self, node) -> str | None:
        """Name of the module whose running statistics a norm's node updates."""
        owner = self.owner(node)
        if getattr(owner, 'running_mean', None) is not None:
            return self._names[owner]
        used = saved_attribute(node, 'running_mean')
        for module, name in self._names.items() if used is not None else ():
            kept = getattr(module, 'running_mean', None)
            if kept is not None and kept.data_ptr() == used.data_ptr():
                return name
        return None

    def norm_name(self, node) -> str | None:
        owner = self.owner(node)
        return self._names[owner] if is_norm(owner) else None
