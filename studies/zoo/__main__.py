"""Audits configs of MMDetection's shipped zoo and writes the table docs/zoo.md.

Every config is audited as shipped, and with all norms in train mode (norm_eval=False,
frozen_stages=-1) where it freezes any. Each in a process of its own, on the CPU, with
random weights, images and boxes. Results are kept: a second start goes on.

    python -m studies.zoo --results work_dirs/zoo
"""

import argparse
from pathlib import Path

from smd_mmdet.launch.arguments import OneLineParser

from ..origin import code
from .configs import CONFIGS
from .page import page
from .results import Results


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(
        prog='python -m studies.zoo',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--results', type=Path, default=Path('work_dirs/zoo'))
    parser.add_argument('--output', type=Path, default=Path('docs/zoo.md'))
    parser.add_argument('--configs', nargs='+', default=CONFIGS, metavar='NAME')
    parser.add_argument('--timeout', type=int, default=900, help='seconds per config')
    parser.add_argument('--memory', type=int, default=12, help='address space, GiB')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--retry', action='store_true', help='run again what was skipped before'
    )
    parser.add_argument(
        '--table-only', action='store_true', help='write the table from kept results'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = Results(args.results, code())

    def write_page() -> None:
        args.output.parent.mkdir(exist_ok=True)
        args.output.write_text(page(args.configs, results))

    if not args.table_only:
        # Only now: MMDetection takes long to import.
        from .runs import Limits, outcome, run_all

        def done(name: str, mode: str, result: dict) -> None:
            print(f'{name} ({mode}): {outcome(result)}', flush=True)
            write_page()

        limits = Limits(args.timeout, args.memory, args.threads)
        run_all(args.configs, results, limits, args.retry, done)
    write_page()


if __name__ == '__main__':
    main()
