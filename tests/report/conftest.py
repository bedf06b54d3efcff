"""What several tests of the report share."""

import pytest
from runs import simulated

from smd_mmdet.report.run import run_of


@pytest.fixture(scope='session')
def run():
    """A simulated run of three layers, with warm-up and two stages."""
    return run_of(simulated(), 'simulated')
