"""Where MMEngine 0.10.7 and MMPretrain disagree with today's PyTorch.

Importing this module lets ``torch.load(weights_only=True)`` read MMEngine's own
checkpoints; :func:`allow_mmpretrain` lets MMPretrain import without torchvision.
"""

import pickle
import sys
from enum import Enum
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

__all__ = ['allow_mmengine_checkpoints', 'allow_mmpretrain']

STATISTICS = ('current', 'max', 'mean', 'min')


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read the message hub in MMEngine's checkpoints.

    A checkpoint holds the history of every logged scalar: ``HistoryBuffer``
    objects around numpy arrays, and numpy scalars. Since torch 2.6 loading
    refuses any class that is not allowed by name. Only these are added, all
    plain data: a checkpoint that would run code is refused as before. A buffer
    also pickles four of its own methods, as ``getattr(HistoryBuffer, 'mean')``;
    to allow ``getattr`` itself would let a checkpoint reach anything, so in a
    checkpoint that name now stands for :func:`_statistic`, which gives these four.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):  # torch < 2.5
        return
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    classes = {HistoryBuffer, np.ndarray, np.dtype}
    # Numbers only: an object array could hold anything.
    classes |= {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    # With their names: the fork of MMEngine takes bare classes back after each load.
    allowed: list[Any] = [(c, f'{c.__module__}.{c.__qualname__}') for c in classes]
    allowed.append((_statistic, 'builtins.getattr'))
    # A checkpoint names numpy's private module as it was when it was written:
    # numpy.core until 1.26, numpy._core since.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed.append((reconstruct, f'{module}._reconstruct'))
        allowed.append((scalar, f'{module}.scalar'))
    torch.serialization.add_safe_globals(allowed)


def _statistic(owner: Any, name: Any) -> Any:
    if owner is HistoryBuffer and name in STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner}, {name})')


def allow_mmpretrain(cfg: Config) -> None:
    """Let MMPretrain import without torchvision, if a config uses MMPretrain.

    MMPretrain imports torchvision and needs it for a few transforms only, but its
    wheels on PyPI do not import beside a CPU build of torch. Where it is missing a
    stand-in takes its place, with the names that MMPretrain's modules look up as they
    are loaded. To use any other of them fails as without it.
    """
    if 'mmpretrain' not in str(cfg.to_dict()) or find_spec('torchvision') is not None:
        return
    names = ('', '.transforms', '.transforms.functional', '.transforms.transforms')
    for name in (*names, '.ops', '.ops.boxes'):
        name = f'torchvision{name}'
        module: Any = module_from_spec(ModuleSpec(name, None))
        sys.modules[name] = module
        module.__getattr__ = _no_torchvision
        module.__path__ = []
        parent, _, child = name.rpartition('.')
        if parent:
            setattr(sys.modules[parent], child, module)
    vars(sys.modules['torchvision'])['__version__'] = 'not installed'
    modes = ('NEAREST', 'BILINEAR', 'BICUBIC', 'BOX', 'HAMMING', 'LANCZOS')
    transforms: Any = sys.modules['torchvision.transforms']
    mode = Enum('InterpolationMode', modes)  # type: ignore[misc]
    transforms.transforms.InterpolationMode = mode
    transforms.RandomResizedCrop = _NoTransform


class _NoTransform:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(f'{type(self).__name__} needs torchvision')


def _no_torchvision(name: str) -> Any:
    raise AttributeError(f'{name} needs torchvision, which is not installed')


allow_mmengine_checkpoints()
