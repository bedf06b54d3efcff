"""What the tests of this folder share."""

import pytest
from shapes_files import SEED, TRAIN, VAL

from smd_mmdet.datasets import write_shapes


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp('shapes') / 'data'
    write_shapes(directory, TRAIN, VAL, seed=SEED)
    return directory
