"""Measures the motion of weights under any torch optimizer, at every step."""

from .monitor import COLUMNS, STATISTICS, SphericalMotionMonitor

__all__ = ['COLUMNS', 'STATISTICS', 'SphericalMotionMonitor']
