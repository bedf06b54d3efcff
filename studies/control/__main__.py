"""Trains with Δ set and without, and writes docs/control_evidence.md.

    python -m studies.control [--quick] [--jobs N] [--only NAME] [--page] [--list]

An interrupted call goes on the next time.
"""

import sys
from collections.abc import Sequence

from ..real_images.data import point_to_data
from ..trained import Study, run_study
from .experiments import DATA, EXPERIMENTS

STUDY = Study(
    name='control_evidence',
    program='control',
    description='What setting the angular update does, and what it does not.',
    experiments=EXPERIMENTS,
    data=DATA,
    page='studies.control.page',
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write; the exit code is that of :func:`run_study`."""
    point_to_data()
    return run_study(STUDY, arguments)


if __name__ == '__main__':
    sys.exit(main())
