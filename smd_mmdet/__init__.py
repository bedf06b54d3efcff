"""Spherical Motion Dynamics for MMDetection: measure, check, plan."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = '0.1.0'
__all__ = ['SphericalMotionMonitor', '__version__', 'theory']


def __getattr__(name: str) -> Any:
    # Nothing is imported until it is used: theory must not cost an import of torch.
    if name == 'SphericalMotionMonitor':
        return importlib.import_module('smd_mmdet.monitor').SphericalMotionMonitor
    if name == 'theory':
        return importlib.import_module('smd_mmdet.theory')
    raise AttributeError(f"module 'smd_mmdet' has no attribute {name!r}")


class _After(importlib.abc.MetaPathFinder):
    """Does something as soon as a module of MMEngine's has been imported.

    A config's ``custom_imports=dict(imports=['smd_mmdet'])`` does nothing where
    smd_mmdet was imported before MMEngine.
    """

    def __init__(self, awaited: str, action: Callable[[], object]) -> None:
        self.awaited = awaited
        self.action = action

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        if name != self.awaited:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec and spec.loader
        if loader is None:
            return spec
        execute = loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            self.action()

        loader.exec_module = execute_and_act
        return spec


def _share_configs() -> None:
    importlib.import_module('smd_mmdet.config.shipped').share_with_mmengine()


def _register() -> None:
    importlib.import_module('smd_mmdet.engine')


for _awaited, _action in (
    ('mmengine.config.config', _share_configs),
    ('mmengine.hooks', _register),
):
    if _awaited in sys.modules:
        _action()
    else:
        sys.meta_path.insert(0, _After(_awaited, _action))
