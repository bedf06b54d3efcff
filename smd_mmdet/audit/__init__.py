"""Which weights of a config's model are scale-invariant, and how to have more."""

from .audit import audit
from .untrained import build_untrained

__all__ = ['audit', 'build_untrained']
