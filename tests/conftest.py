"""What all tests share."""

import sys

# These go first, so that at the end no core waits long for another.
LONG = (
    *('test_configs', 'test_detection', 'test_distributed', 'test_engine'),
    *('test_reliability', 'test_rescale_hook', 'test_tools'),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish():
    """MMEngine writes a config several times a run, a third of which is formatting."""
    config = sys.modules.get('mmengine.config.config')
    if config is not None:
        config.FormatCode = lambda text, **_: (text, True)
