"""Spherical Motion Dynamics for MMDetection: measure, check, plan."""

import importlib
import importlib.abc
import importlib.util
import sys

__version__ = '0.1.0'
__all__ = ['SphericalMotionMonitor', '__version__', 'theory']


def __getattr__(name: str):
    # Nothing is imported until it is used: theory must not cost an import of torch.
    if name == 'SphericalMotionMonitor':
        return importlib.import_module('smd_mmdet.monitor').SphericalMotionMonitor
    if name == 'theory':
        return importlib.import_module('smd_mmdet.theory')
    raise AttributeError(f"module 'smd_mmdet' has no attribute {name!r}")


class _RegisterWithMMEngine(importlib.abc.MetaPathFinder):
    """Registers the hooks and the constructor as soon as MMEngine's own exist.

    A config's ``custom_imports=dict(imports=['smd_mmdet'])`` does nothing where
    smd_mmdet was imported before MMEngine.
    """

    def find_spec(self, name, path=None, target=None):
        if name != 'mmengine.hooks':
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_register(module):
            execute(module)
            importlib.import_module('smd_mmdet.engine')

        spec.loader.exec_module = execute_and_register
        return spec


if 'mmengine.hooks' in sys.modules:
    importlib.import_module('smd_mmdet.engine')
else:
    sys.meta_path.insert(0, _RegisterWithMMEngine())
