"""What all tests share."""

import os
import sys

import torch

# Triton reads it when it is imported, which any test may do.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

# The lengths of schedules that tests expect are those of COCO itself, which are known
# where no images lie.
os.environ.pop('COCO_ROOT', None)

# These go first, so that at the end no core waits long for another.
LONG = (
    *('test_configs', 'test_detection', 'test_distributed', 'test_hook'),
    *('test_recording', 'test_sharing', 'test_rescaling', 'test_start', 'test_tools'),
    *('test_reliability', 'test_notebook', 'test_site'),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish():
    """MMEngine writes a config several times a run, a third of which is formatting."""
    config = sys.modules.get('mmengine.config.config')
    if config is not None:
        config.FormatCode = lambda text, **_: (text, True)
