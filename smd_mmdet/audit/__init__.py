"""Which weights of a config's model are scale-invariant, and how to have more.

:mod:`.audit` asks :mod:`smd_mmdet.invariance` about a model with random weights, which
:mod:`.untrained` builds; :mod:`.results` counts what was found and turns it into plain
data, and :mod:`.advice` names the lines of the config to change if nothing was found.
"""

from .audit import audit
from .untrained import build_untrained

__all__ = ['audit', 'build_untrained']
