"""What runs inside training: two hooks and a constructor that MMEngine's Runner calls.

SMDHook (``hook.py``) chooses weights (``layers.py``), proves that they are
scale-invariant (``verify.py``), and attaches the monitor. What that measures goes to
the records (``recording.py``, ``metadata.py``) and to the log (``progress.py``).

SMDRescaleHook (``rescale_hook.py``) finds the weights that can be rescaled
(``rescalable.py``) and multiplies them (``rescaling.py``) where a learning rate drops
(``rates.py``), or where a phase of measuring has shown their w* (``start.py``,
``phase.py``).

SMDOptimWrapperConstructor (``constructor.py``) gives scale-invariant weights parameter
groups of their own (``groups.py``), and the weight decay of an angular update
(``decay.py``).

All of them share what is asked of a run (``runs.py``), what several processes have to
agree on (``parallel.py``), and what happens to a fault of ours (``faults.py``).
"""

# To import it also lets torch.load read MMEngine's own checkpoints.
from smd_mmdet.config.compat import (
    allow_mmengine_checkpoints as allow_mmengine_checkpoints,
)
from smd_mmdet.config.errors import SettingError

from .constructor import SMDOptimWrapperConstructor
from .hook import SMDHook
from .rescale_hook import SMDRescaleHook

__all__ = [
    'SMDHook',
    'SMDOptimWrapperConstructor',
    'SMDRescaleHook',
    'SettingError',
]
