"""Setting the angular update: how far each scale-invariant weight turns in a step.

The norm of a scale-invariant weight changes nothing that the network computes, but the
angle that a step turns the weight through follows it: Δ ∝ 1/‖w‖² under SGD, 1/‖w‖ under
AdamW, and under SGD too where every gradient is clipped. So Δ can be set at any time.

- ``wanted.py`` tells which Δ is wanted: a number, one for each step, that of
  equilibrium, or what a run has recorded (``replay.py``);
- ``measuring.py`` measures by the monitor what the weights really do;
- ``prediction.py`` foresees the norms and angles of the steps to come, and
  ``estimate.py`` tells signal from noise;
- ``factors.py`` is the one place where factors are decided, ``response.py`` knows how
  gradient clipping answers to them, and :mod:`smd_mmdet.rescale` applies them;
- ``regulator.py`` puts these together, ``timetable.py`` says when, and
  ``controller.py`` is what a training loop in plain torch calls.
"""

from .controller import AngularUpdateController
from .replay import Replay, read_replay

__all__ = ['AngularUpdateController', 'Replay', 'read_replay']
