"""What all tests share."""

import sys


def pytest_collection_finish():
    """MMEngine writes a config several times a run, a third of which is formatting."""
    config = sys.modules.get('mmengine.config.config')
    if config is not None:
        config.FormatCode = lambda text, **_: (text, True)
