"""Which module made which node of the graph."""

import bisect

import torch
from torch import nn

from .operations import Node, saved_attribute
from .undisturbed import is_norm

__all__ = ['Owners']


class Owners:
    """Names the module during whose forward a node of the graph was made.

    Autograd numbers its nodes in the order of their creation. The number is noted
    whenever a forward begins or ends, so each node lies between two notes, and was
    made by the innermost module that was running there.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._probe = torch.ones((), requires_grad=True)
        # Nodes from a number on, up to the next one, are made by the module beside it.
        self._numbers: list[int] = [-1]
        self._modules: list[nn.Module] = [model]
        # The modules that are running, the innermost one last.
        self._running = [model]

    def watch(self) -> None:
        """Begin to note when modules run; their hooks are for others to remove."""
        for module in self._names:
            module.register_forward_pre_hook(self._enter, prepend=True)
            module.register_forward_hook(self._leave)

    def name(self, node: Node) -> str:
        """Dotted name of the module that made a node, for messages."""
        return self._names[self._owner(node)] or 'the model itself'

    def norm_name(self, node: Node) -> str | None:
        """Dotted name of the module that made a node, None if it is no norm."""
        owner = self._owner(node)
        return self._names[owner] if is_norm(owner) else None

    def statistics(self, node: Node) -> str | None:
        """Name of the module whose running statistics a norm's node updates."""
        owner = self._owner(node)
        if getattr(owner, 'running_mean', None) is not None:
            return self._names[owner]
        used = saved_attribute(node, 'running_mean')
        for module, name in self._names.items() if used is not None else ():
            kept = getattr(module, 'running_mean', None)
            if kept is not None and kept.data_ptr() == used.data_ptr():
                return name
        return None

    def _owner(self, node: Node) -> nn.Module:
        place = bisect.bisect_right(self._numbers, node._sequence_nr()) - 1
        return self._modules[place]

    def _enter(self, module: nn.Module, _: object) -> None:
        self._running.append(module)
        self._note()

    def _leave(self, module: nn.Module, *_: object) -> None:
        # A forward that raised, and whose error was caught, is still in the list.
        while len(self._running) > 1 and self._running.pop() is not module:
            pass
        self._note()

    def _note(self) -> None:
        """Note the number that autograd gives now, by making a node."""
        with torch.enable_grad():
            node: Node = (self._probe * 1).grad_fn
        self._numbers.append(node._sequence_nr())
        self._modules.append(self._running[-1])
