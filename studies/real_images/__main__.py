"""Trains on real images and writes docs/real_images.md.

    python -m studies.real_images [--quick] [--jobs N] [--only NAME] [--page] [--list]

An interrupted call goes on the next time.
"""

import sys
from collections.abc import Sequence

from ..trained import Study, run_study
from .data import point_to_data
from .experiments import EXPERIMENTS

STUDY = Study(
    name='real_images',
    program='real_images',
    description="The paper's claims on real images.",
    experiments=EXPERIMENTS,
    data={},
    page='studies.real_images.page',
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write; the exit code is that of :func:`run_study`."""
    point_to_data()
    return run_study(STUDY, arguments)


if __name__ == '__main__':
    sys.exit(main())
