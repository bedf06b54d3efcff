"""A copy of a model that has nothing to do with the model any more.

``copy.deepcopy`` takes functions as they are, and a function that was put in the place
of a module's ``forward`` often keeps hold of that module: it is a closure over the
bound ``forward`` of before. Its copy would run the model itself. So do wrappers that
keep a weak reference, and compiled functions.
"""

import collections
import contextlib
import copy
import copyreg
import dis
import functools
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .state import CONTAINERS, children_of, contents

__all__ = ['copied']

# Objects that are looked at to find out whether a value leads to the model.
_MANY = 1000
# What leads to a module without being one.
_REFERENCES = (types.MethodType, weakref.ref)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, whose functions run the copy's modules.

    Torch refuses to copy tensors that have a history. The copy has them without it,
    and its parameters without gradients.

    Args:
        model: The model; it is not touched.

    Raises:
        ValueError: If a function in the model keeps hold of it in a way that cannot
            be copied.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.BatchNorm1d(2))
        >>> forward = model[0].forward
        >>> model[0].forward = lambda x: forward(x)
        >>> _ = copied(model)(torch.randn(4, 2))
        >>> int(model[0].num_batches_tracked)
        0
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    with _generators_can_be_copied():
        replica = copy.deepcopy(model, memo)
        for parameter in replica.parameters():
            parameter.grad = None
        _Rebinding(memo).run()
    return replica


@contextlib.contextmanager
def _generators_can_be_copied() -> Iterator[None]:
    """Let ``copy.deepcopy`` copy random generators, which torch 2.1 cannot itself."""
    if '__reduce__' in vars(torch.Generator):
        yield
        return
    copyreg.pickle(torch.Generator, _parts_of_a_generator)
    try:
        yield
    finally:
        copyreg.dispatch_table.pop(torch.Generator, None)


def _parts_of_a_generator(generator: torch.Generator) -> tuple:
    return _generator, (generator.device, generator.get_state())


def _generator(device: torch.device, state: Tensor) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(state)
    return generator


class _Rebinding:
    """Puts the copies of functions and references in the place of the originals.

    Args:
        memo: The copies that ``copy.deepcopy`` has made, by id of the original.
    """

    def __init__(self, memo: dict[int, Any]) -> None:
        self._memo = memo
        # What keeps the originals alive, so that their ids stay theirs.
        self._originals: list[Any] = []
        self._copies: set[int] = set()

    def run(self) -> None:
        """Go through everything that was copied and has not been gone through."""
        self._originals.append(self._memo.pop(id(self._memo), None))
        fresh = [v for v in self._memo.values() if id(v) not in self._copies]
        self._copies |= {id(value) for value in fresh}
        for value in fresh:
            if isinstance(value, (list, collections.deque)):
                self._replace(value, enumerate(list(value)))
            elif isinstance(value, dict):
                self._replace(value, list(dict.items(value)))
            if isinstance(getattr(value, '__dict__', None), dict):
                self._replace(vars(value), list(vars(value).items()))

    def _replace(self, container: Any, entries: Iterable[tuple[Any, Any]]) -> None:
        for key, value in entries:
            if (new := self._rebound(value)) is not value:
                container[key] = new

    def _rebound(self, value: Any) -> Any:
        """The copy of a value, or the value itself where it needs none."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._method(value)
        if isinstance(value, weakref.ref):
            return self._reference(value)
        if type(value) is functools.partial:
            parts = (value.func, value.args, value.keywords)
            function, args, keywords = [self._captured(p, value.func) for p in parts]
            return functools.partial(function, *args, **keywords)
        if type(value) is tuple:
            return _changed(value, map(self._rebound, value))
        return value

    def _reference(self, reference: weakref.ref) -> weakref.ref:
        target = reference()
        if target is None or id(target) not in self._memo:
            return reference
        return weakref.ref(self._memo[id(target)])

    def _method(self, method: types.MethodType) -> types.MethodType:
        owner, function = self._rebound(method.__self__), method.__func__
        # A class's own method takes the module that it is bound to.
        if getattr(type(owner), function.__name__, None) is not function:
            function = self._rebound(function)
        same = owner is method.__self__ and function is method.__func__
        return method if same else types.MethodType(function, owner)

    def _function(self, function: types.FunctionType) -> Any:
        if (plain := getattr(function, '_torchdynamo_orig_callable', None)) is not None:
            return self._rebound(plain)  # compiled; the copy is not worth compiling
        variables = self._globals(function)
        if variables is function.__globals__ and not (
            function.__closure__ or function.__defaults__ or vars(function)
        ):
            return function
        cells = tuple(map(self._cell, function.__closure__ or ()))
        new = types.FunctionType(
            function.__code__, variables, function.__name__, None, cells
        )
        # It may be among the variables that it closes over.
        self._memo[id(function)] = new
        for old, cell in zip(function.__closure__ or (), cells, strict=True):
            # Another function that closes over the same variable may have filled it.
            for content in contents(old)[: not contents(cell)]:
                cell.cell_contents = self._captured(content, function)
        new.__defaults__ = self._captured(function.__defaults__, function)
        new.__kwdefaults__ = self._captured(function.__kwdefaults__, function)
        new.__qualname__, new.__doc__ = function.__qualname__, function.__doc__
        for key, value in vars(function).items():
            vars(new)[key] = self._captured(value, function)
        return new

    def _globals(self, function: types.FunctionType) -> dict[str, Any]:
        """The global variables of a function, those copied that lead to the model."""
        variables = function.__globals__
        read = {
            one.argval
            for one in dis.get_instructions(function.__code__)
            if one.opname == 'LOAD_GLOBAL'
        }
        own = {}
        for name in read & variables.keys():
            value = variables[name]
            leads_here = id(value) in self._memo or isinstance(value, _REFERENCES)
            if leads_here and (new := self._rebound(value)) is not value:
                own[name] = new
        return {**variables, **own} if own else variables

    def _cell(self, cell: types.CellType) -> types.CellType:
        return self._memo.setdefault(id(cell), types.CellType())

    def _captured(self, value: Any, function: Any) -> Any:
        """The copy of what a function keeps hold of.

        Args:
            value: A variable that the function closes over, an argument, a default.
            function: The function, for the message.

        Raises:
            ValueError: If it leads to the model and cannot be copied.
        """
        new = self._rebound(value)
        if new is not value or id(value) in self._copies:
            return new
        if isinstance(value, (type, types.ModuleType, types.FunctionType)):
            return value
        if type(value) is tuple:
            return _changed(value, [self._captured(v, function) for v in value])
        if isinstance(value, CONTAINERS) and len(value) <= _MANY:
            return self._container(value, function)
        small, leads_here = self._look_into(value)
        if small:
            with contextlib.suppress(Exception):  # a lock, a file, a process group
                new = copy.deepcopy(value, self._memo)
                self.run()
                return new
        if leads_here:
            name = getattr(function, '__qualname__', 'a function')
            raise ValueError(
                f'the model cannot be copied: {name} keeps hold of it through an '
                f'object of type {type(value).__name__}'
            )
        return value

    def _container(self, value: Any, function: Any) -> Any:
        new = self._memo[id(value)] = copy.copy(value)
        self._copies.add(id(new))
        if isinstance(value, dict):
            for key, item in list(dict.items(value)):
                dict.__setitem__(new, key, self._captured(item, function))
        elif not isinstance(value, set):
            for index, item in enumerate(list(value)):
                new[index] = self._captured(item, function)
        return new

    def _look_into(self, value: Any) -> tuple[bool, bool]:
        """Whether a value is small, and whether it leads to the model."""
        seen: dict[int, Any] = {}
        stack, leads_here = [value], False
        while stack and len(seen) < _MANY:
            one = stack.pop()
            if id(one) in self._memo:
                leads_here = True
            elif id(one) not in seen:
                seen[id(one)] = one
                stack += [child for _, child in children_of(one)]
        return not stack, leads_here


def _changed(before: tuple, items: Iterable) -> tuple:
    """A tuple of other items; the one before if they are the same."""
    new = tuple(items)
    return before if all(a is b for a, b in zip(new, before, strict=True)) else new
