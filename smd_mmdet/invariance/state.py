"""The state of a model or a data set: kept, compared and put back.

A model is more than its parameters. Losses count in plain attributes, wrappers of a
forward in the variables that they close over, samplers draw from generators of their
own. All of it is found from the object itself, attribute by attribute.
"""

import collections
import functools
import random
import sys
import types
from collections.abc import Callable, Hashable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ['CONTAINERS', 'State', 'children_of', 'contents']

CONTAINERS = (list, dict, set, collections.deque)
# Objects inside of objects that are looked into. More belong to something else, to
# which the object only keeps a reference: a runner, say.
_DEPTH = 2
# A container with more entries holds data, not state.
_LONG = 1000
# Values that hold no others, left out early since most are of these types.
_PLAIN = (int, float, bool, str, bytes, type(None), torch.dtype, torch.Size)
# Entries of a module that lead to what is named as the module's own.
_OWN = ('_parameters', '_buffers', '_modules')
# Classes of the standard library that say nothing of what derives from them.
_ABSTRACT = ('abc', 'typing', 'collections.abc')
# Whole numbers of as many bytes as another type has.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_Children = Iterable[tuple[str, Any]]


class State:
    """Everything that hangs on an object, as it is now.

    Args:
        root: The object, a model for one.
        depth: How deep objects inside of objects are looked into; modules always are.
        values: Whether the values of tensors are kept as well.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> state = State(model)
        >>> _ = model.eval()
        >>> model.running_mean += 1
        >>> state.restore()
        ['training', 'running_mean']
        >>> model.training, model.running_mean
        (True, tensor([0., 0.]))
    """

    def __init__(self, root: object, depth: int = _DEPTH, values: bool = True) -> None:
        # Each tells what has changed, and puts it back.
        self._restorers: list[Callable[[], list[str]]] = []
        seen: set[int] = set()
        queue = collections.deque([(root, '', 0)])
        while queue:
            value, name, level = queue.popleft()
            if isinstance(value, _PLAIN) or id(value) in seen:
                continue
            seen.add(id(value))
            restorer = _restorer(value, name, values)
            if restorer is not None:
                self._restorers.append(restorer)
            if isinstance(value, nn.Module):
                level = 0
            elif _is_object(value):
                level += 1
                if level > depth:
                    continue
            queue += [(c, _joined(name, k), level) for k, c in children_of(value)]

    def restore(self) -> list[str]:
        """Put everything back that has changed.

        Returns:
            Names of what had changed.
        """
        changed = [name for restorer in self._restorers for name in restorer()]
        return list(dict.fromkeys(changed))


def children_of(value: Any) -> _Children:
    """What a value keeps hold of, each with the name it has there.

    Args:
        value: A module, container, function, or any other object.

    Returns:
        Pairs of a name, which may be empty, and a value.
    """
    if isinstance(value, dict):
        if len(value) > _LONG:
            return []
        return [(k if isinstance(k, str) else '', v) for k, v in _entries(value)]
    if isinstance(value, (list, tuple, set, collections.deque)):
        return [] if len(value) > _LONG else [('', v) for v in list(value)]
    if isinstance(value, functools.partial):
        return [('', v) for v in (value.func, value.args, value.keywords)]
    if isinstance(value, types.MethodType):
        return [('', value.__self__), ('', value.__func__)]
    if isinstance(value, types.FunctionType):
        kept = (value.__closure__, value.__defaults__, value.__kwdefaults__)
        return [*(('', v) for v in kept), ('', vars(value))]
    if isinstance(value, types.CellType):
        return [('', content) for content in contents(value)]
    if isinstance(value, nn.Module) or _is_object(value):
        return [('' if k in _OWN else k, v) for k, v in list(vars(value).items())]
    return []


def _is_object(value: Any) -> bool:
    """Whether a value is an instance of a class of the model's or the user's code."""
    return not isinstance(value, type) and _is_foreign(cast(Hashable, type(value)))


@functools.cache
def _is_foreign(kind: Any) -> bool:
    """Whether a class is neither torch's tensor nor of the standard library."""
    if issubclass(kind, (Tensor, *CONTAINERS)) or '__dict__' not in dir(kind):
        return False
    modules = {base.__module__ for base in kind.__mro__ if base is not object}
    packages = {name.partition('.')[0] for name in modules.difference(_ABSTRACT)}
    return packages.isdisjoint(sys.stdlib_module_names)


def _joined(name: str, key: str) -> str:
    return f'{name}.{key}' if name and key else name or key


def contents(cell: types.CellType) -> list:
    """The value of a variable that functions close over, none if it has none yet."""
    try:
        return [cell.cell_contents]
    except ValueError:  # nothing has been assigned yet
        return []


def _restorer(value: Any, name: str, values: bool) -> Callable[[], list[str]] | None:
    """What keeps the state of one value; None if it has none of its own."""
    if isinstance(value, Tensor):
        if not values or value.grad_fn is not None or value.is_meta or is_lazy(value):
            return None
        return _Value(value, name).restore
    if isinstance(value, CONTAINERS):
        if len(value) > _LONG and not values:
            return None
        return functools.partial(_put_back, value, _entries(value), name)
    if isinstance(value, types.CellType):
        return functools.partial(_refill, value, contents(value), name)
    if generator := _generator(value):
        read, write = generator
        return functools.partial(_rewind, write, read())
    if isinstance(value, nn.Module) or _is_object(value):
        return functools.partial(_put_back, vars(value), _entries(vars(value)), name)
    return None


def _entries(container: Any) -> list:
    # Configs build what they hold anew whenever their own `items` is called.
    ordered = isinstance(container, collections.OrderedDict)
    if isinstance(container, dict) and not ordered:
        return list(dict.items(container))
    return list(container.items() if ordered else container)


def _same(one: list, other: list) -> bool:
    """Whether entries are the very same objects, in the same order."""
    return len(one) == len(other) and all(
        (a[0] is b[0] and a[1] is b[1])
        if type(a) is tuple and type(b) is tuple and len(a) == len(b) == 2
        else a is b
        for a, b in zip(one, other, strict=True)
    )


def _put_back(container: Any, before: list, name: str) -> list[str]:
    now = _entries(container)
    if _same(now, before):
        return []
    container.clear()
    if isinstance(container, (list, collections.deque)):
        container.extend(before)
        return [name]
    if isinstance(container, set):
        container.update(before)
        return [name]
    # A counter's own `update` adds.
    if isinstance(container, collections.OrderedDict):
        container.update(before)
    else:
        dict.update(container, before)
    old, new = dict(before), dict(now)
    missing = object()
    keys = [k for k in {**old, **new} if old.get(k, missing) is not new.get(k, missing)]
    return [_joined(name, key) for key in keys if isinstance(key, str)] or [name]


def _refill(cell: types.CellType, before: list, name: str) -> list[str]:
    if _same(contents(cell), before):
        return []
    if before:
        cell.cell_contents = before[0]
    else:
        del cell.cell_contents
    return [f'a variable of {name}']


def _generator(value: Any) -> tuple[Callable, Callable] | None:
    """Functions that read and write the state of a random generator."""
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    numpy = sys.modules.get('numpy')
    if numpy and isinstance(value, numpy.random.RandomState):
        return value.get_state, value.set_state
    if numpy and isinstance(value, numpy.random.Generator):
        bits = value.bit_generator
        return (lambda: bits.state), (lambda state: setattr(bits, 'state', state))
    return None


def _rewind(write: Callable, before: Any) -> list[str]:
    """Put a generator back; that it was drawn from is nothing to be told."""
    write(before)
    return []


class _Value:
    """Value, storage, gradient and flag of one tensor."""

    def __init__(self, tensor: Tensor, name: str) -> None:
        self._tensor, self._name = tensor, name
        self._requires_grad, self._grad = tensor.requires_grad, tensor.grad
        self._contents = [_Contents(tensor)]
        if self._grad is not None:
            self._contents.append(_Contents(self._grad))

    def restore(self) -> list[str]:
        changed = []
        if self._tensor.requires_grad != self._requires_grad:
            self._tensor.requires_grad_(self._requires_grad)
            changed.append(f'{self._name}.requires_grad')
        other = self._tensor.grad is not self._grad
        if other:
            self._tensor.grad = None  # it may be of another type than the tensor was
        if self._contents[0].restore():
            changed.append(self._name)
        if any([content.restore() for content in self._contents[1:]]) or other:
            changed.append(f'{self._name}.grad')
        self._tensor.grad = self._grad
        return changed


class _Contents:
    """The numbers of a tensor, and the memory that they are in."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._memory = tensor.detach()
        self._value = self._memory.clone()

    def restore(self) -> bool:
        """Put the numbers back if they have changed, and tell whether they had."""
        now, memory = self._tensor.detach(), self._memory
        moved = now.dtype != memory.dtype or now.shape != memory.shape
        if moved or now.data_ptr() != memory.data_ptr():
            self._tensor.data = memory
            moved = True
        if not _equal(memory, self._value):
            memory.copy_(self._value)
            return True
        return moved


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits: NaN is NaN then."""
    bits = _BITS.get(one.element_size(), torch.int64)
    try:
        numbers = [tensor.reshape(-1).view(bits) for tensor in (one, other)]
    except RuntimeError:  # a layout that has no view: sparse, say
        return torch.equal(one, other)
    return torch.equal(*numbers)
