"""Trains the reproduction's runs and writes its page.

    bash tools/reproduce.sh [--quick] [--jobs N] [--only PATTERN] [--page] [--list]

sets up the environment, then starts this as ``python -m studies.reproduction``.
"""

import sys
from collections.abc import Sequence

from ..trained import Study, run_study
from .experiments import DATA, EXPERIMENTS

STUDY = Study(
    name='reproduction',
    program='reproduce.sh',
    description="The paper's claims on small models.",
    experiments=EXPERIMENTS,
    data=DATA,
    page='studies.reproduction.page',
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write; the exit code is that of :func:`run_study`."""
    return run_study(STUDY, arguments)


if __name__ == '__main__':
    sys.exit(main())
