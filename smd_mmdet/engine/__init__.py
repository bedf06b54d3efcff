"""The thin side that MMEngine sees: a hook and an optimizer-wrapper constructor."""

from .compat import allow_mmengine_checkpoints
from .constructor import SMDOptimWrapperConstructor
from .errors import SettingError
from .hook import SMDHook

__all__ = [
    'SMDHook',
    'SMDOptimWrapperConstructor',
    'SettingError',
    'allow_mmengine_checkpoints',
]
