"""Trains through long second stages and writes docs/fall.md.

    python -m studies.fall [--quick] [--jobs N] [--only NAME] [--page] [--list]

An interrupted call goes on the next time.
"""

import sys
from collections.abc import Sequence

from ..real_images.data import point_to_data
from ..trained import Study, run_study
from .experiments import DATA, EXPERIMENTS

STUDY = Study(
    name='fall',
    program='fall',
    description='Does the score fall as Δ climbs back to its equilibrium?',
    experiments=EXPERIMENTS,
    data=DATA,
    page='studies.fall.page',
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write; the exit code is that of :func:`run_study`."""
    point_to_data()
    return run_study(STUDY, arguments)


if __name__ == '__main__':
    sys.exit(main())
