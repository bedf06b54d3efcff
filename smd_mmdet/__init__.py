"""Spherical Motion Dynamics for MMDetection: measure, check, plan.

Importing this package imports neither torch nor MMEngine. What MMEngine has to know of
it is told as soon as MMEngine is imported, be that before or after: the hooks are
registered, and configs may name ours as ``smd_mmdet::folder/name.py``.
"""

import importlib
from types import ModuleType
from typing import Any

from wrapt import when_imported

__version__ = '0.2.0'
__all__ = ['SphericalMotionMonitor', '__version__', 'theory']


def __getattr__(name: str) -> Any:
    # Nothing is imported until it is used: theory must not cost an import of torch.
    if name == 'SphericalMotionMonitor':
        return importlib.import_module('smd_mmdet.monitor').SphericalMotionMonitor
    if name == 'theory':
        return importlib.import_module('smd_mmdet.theory')
    raise AttributeError(f"module 'smd_mmdet' has no attribute {name!r}")


# A config's custom_imports=dict(imports=['smd_mmdet']) does nothing where smd_mmdet was
# imported before MMEngine, so these wait for MMEngine, if it is not there already.


@when_imported('mmengine.config.config')
def _share_configs(_: ModuleType) -> None:
    importlib.import_module('smd_mmdet.config.shipped').share_with_mmengine()


@when_imported('mmengine.hooks')
def _register(_: ModuleType) -> None:
    importlib.import_module('smd_mmdet.engine')
