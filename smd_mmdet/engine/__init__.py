"""The thin side that MMEngine sees: hooks and an optimizer-wrapper constructor."""

from .compat import allow_mmengine_checkpoints
from .constructor import SMDOptimWrapperConstructor
from .errors import SettingError
from .hook import SMDHook
from .rescale_hook import SMDRescaleHook

__all__ = [
    'SMDHook',
    'SMDOptimWrapperConstructor',
    'SMDRescaleHook',
    'SettingError',
    'allow_mmengine_checkpoints',
]
