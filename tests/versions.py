"""Skips a test where the installed torch lacks what it needs, and says so."""

import pytest
import torch

TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])


def needs_torch(major, minor, what):
    """A mark for a test that needs a newer torch, because of something named."""
    return pytest.mark.skipif(
        (major, minor) > TORCH,
        reason=f'torch {torch.__version__} has no {what}; {major}.{minor} has',
    )


needs_fused_sgd = needs_torch(2, 4, 'fused SGD on the CPU')
needs_cpu_scaler = needs_torch(2, 3, 'gradient scaler for the CPU')
# Earlier ones cannot be told that MMEngine's checkpoints hold plain data.
SAFE = TORCH >= (2, 6)
needs_safe_globals = needs_torch(2, 6, 'classes that a user allows in checkpoints')


def load(path):
    """A checkpoint of MMEngine's, as safely as this torch can read it."""
    return torch.load(path, weights_only=SAFE)
