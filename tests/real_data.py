"""Where the real images lie, for the tests that need them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def real_data(name):
    """The folder of a data set; a test that needs a missing one is skipped.

    Two data sets are looked for, ``coco128`` and ``nuclei``, in the folder that the
    environment variable SMD_DATA names, or in ../shared/data.
    """
    root = os.environ.get('SMD_DATA') or ROOT.parent / 'shared' / 'data'
    folder = Path(root) / name
    if not (folder / 'annotations').is_dir():
        pytest.skip(
            f'{name} is not in {root}: set SMD_DATA to the folder that holds it'
        )
    return folder
