"""Measures the motion of weights under any torch optimizer, at every step."""

from .monitor import SphericalMotionMonitor
from .rows import COLUMNS, STATISTICS

__all__ = ['COLUMNS', 'STATISTICS', 'SphericalMotionMonitor']
