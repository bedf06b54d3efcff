"""Where the real images lie."""

import os
from pathlib import Path

from .. import ROOT

__all__ = ['VARIABLES', 'point_to_data', 'root_of']

# The environment variable that the configs of a data set read, and its folder in the
# one that SMD_DATA names.
VARIABLES = {'NUCLEI_ROOT': 'nuclei', 'COCO_ROOT': 'coco128'}
# The folder under data/ that the configs take where the variable is not set.
DEFAULTS = {'NUCLEI_ROOT': 'nuclei', 'COCO_ROOT': 'coco'}


def root_of(variable: str) -> Path:
    """The folder of a data set.

    Args:
        variable: Name of the environment variable, a key of :data:`VARIABLES`.

    Returns:
        What the variable says; else the folder in the one that SMD_DATA names, or in
        ../shared/data, where it is there; else the configs' default.
    """
    named = os.environ.get(variable)
    if named:
        return Path(named)
    together = os.environ.get('SMD_DATA') or ROOT.parent / 'shared' / 'data'
    folder = Path(together) / VARIABLES[variable]
    return folder if folder.is_dir() else ROOT / 'data' / DEFAULTS[variable]


def point_to_data() -> None:
    """Set the variables for the trainings that this process starts."""
    for variable in VARIABLES:
        os.environ[variable] = str(root_of(variable))
