"""Which class a config asks for, whichever way the config says it.

A config names a class by its registered name (``'SGD'``), with a scope
(``'mmdet.CocoDataset'``), by where it is imported from (``'torch.optim.SGD'``, which is
how MMEngine writes a new-style config down), or it holds the class itself. All of them
train the same, so nothing here may tell them apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    Registry,
)
from mmengine.utils import get_object_from_string

__all__ = ['class_of', 'names_class', 'type_name']

# Where a bare name may stand for a subclass of a class that somebody asks about.
_REGISTRIES = (LOOPS, HOOKS, OPTIM_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS, DATASETS)


def type_name(value: Any) -> str:
    """The bare name of the class that a config asks for.

    Args:
        value: The class, its name with or without scope or module, or a section of a
            config that has one of these under ``type``.

    Returns:
        The name; 'None' if the section has no ``type``.

    Example:
        >>> from torch.optim import SGD
        >>> kinds = SGD, 'SGD', 'mmengine.SGD', 'torch.optim.SGD', dict(type='SGD')
        >>> {type_name(kind) for kind in kinds}
        {'SGD'}
    """
    kind = _kind(value)
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def names_class(value: Any, name: str) -> bool:
    """Whether a config asks for a class, or for a subclass of it.

    Args:
        value: As :func:`type_name` takes it.
        name: The bare name of the class.

    Returns:
        Whether it does. Of a name that stands for no class that is known here only
        the name itself counts.

    Example:
        >>> from mmengine.runner import IterBasedTrainLoop
        >>> names_class(dict(type=IterBasedTrainLoop), 'IterBasedTrainLoop')
        True
        >>> names_class('mmengine.runner.IterBasedTrainLoop', 'EpochBasedTrainLoop')
        False
    """
    if type_name(value) == name:
        return True
    found = class_of(value)
    return found is not None and name in [
        base.__name__ for base in inspect.getmro(found)
    ]


def class_of(value: Any, scope: str | None = None) -> type | None:
    """The class that a config asks for, as far as it can be found here.

    Args:
        value: As :func:`type_name` takes it.
        scope: ``default_scope`` of the config: the package in whose registries a name
            is looked up, which is imported for it. None looks only at what is
            registered already.

    Returns:
        The class, or None if it is not known here.
    """
    kind = _kind(value)
    if isinstance(kind, type):
        return kind
    if not isinstance(kind, str) or not kind:
        return None
    for registry in _REGISTRIES:
        if isinstance(found := _registered(registry, kind, scope), type):
            return found
    if kind.count('.') < 2:
        return None
    try:
        found = get_object_from_string(kind)
    except Exception:  # a module that cannot be imported fails in any way
        return None
    return found if isinstance(found, type) else None


def _kind(value: Any) -> Any:
    """The class or name itself, out of a section or of MMEngine's lazy import."""
    kind = value.get('type') if isinstance(value, Mapping) else value
    if isinstance(kind, (LazyObject, LazyAttr)):
        kind = kind.build()
    return kind


def _registered(registry: Registry, name: str, scope: str | None) -> Any:
    """What a registry of MMEngine, or of a package that joins it, has by a name."""
    if scope is None:  # Registry.get would import the package
        scope, _, bare = name.rpartition('.')
        return registry.children.get(scope, registry).module_dict.get(bare)
    if '.' not in name:
        name = f'{scope}.{name}'
    try:
        return registry.get(name)
    except Exception:  # of a package that is not here, or does not import
        return None
