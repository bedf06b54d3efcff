"""The thin side that MMEngine sees: hooks and an optimizer-wrapper constructor."""

from smd_mmdet.config.compat import allow_mmengine_checkpoints
from smd_mmdet.config.errors import SettingError

from .constructor import SMDOptimWrapperConstructor
from .hook import SMDHook
from .rescale_hook import SMDRescaleHook

__all__ = [
    'SMDHook',
    'SMDOptimWrapperConstructor',
    'SMDRescaleHook',
    'SettingError',
    'allow_mmengine_checkpoints',
]
