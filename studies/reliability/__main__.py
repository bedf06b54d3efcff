"""Trains a tiny model under each case of what may befall a run, and writes the page.

    python -m studies.reliability [--kills 50] [--only NAME]

writes docs/reliability.md, unless only some cases are chosen. It ends with 1 if a case
fails. tests/studies/test_reliability.py runs the same cases.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from .. import ROOT
from .kills import NUMBER, killed_runs, kills
from .page import FAILS, GROUPS, examine, page


def main() -> int:
    """Examine the cases.

    Returns:
        The exit code: 0, or 1 if a case fails.
    """
    parser = argparse.ArgumentParser(
        prog='python -m studies.reliability', description=__doc__
    )
    parser.add_argument('--kills', type=int, default=NUMBER)
    parser.add_argument('--only', help='cases whose name has this in it')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'reliability.md')
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = [(group, []) for group in GROUPS]
    for group, seen in results:
        for case in group.cases:
            if args.only and args.only not in case.name:
                continue
            if case.name == kills.__name__:
                case = replace(case, run=partial(killed_runs, number=args.kills))
            result = examine(case)
            seen.append(result)
            said = f'{case.title}: {result.verdict}: {result.seen}'
            print(said, file=sys.stderr, flush=True)
    text = page(results)
    print(text)
    if not args.only:
        args.out.write_text(text)
    return int(any(r.verdict == FAILS for _, seen in results for r in seen))


if __name__ == '__main__':
    sys.exit(main())
