#!/usr/bin/env python
"""Write the nuclei of BBBC038 as a COCO data set.

    python tools/dataset_converters/nuclei.py stage1_train data/nuclei

``stage1_train`` is the folder that stage1_train.zip of the Broad Bioimage Benchmark
Collection (BBBC038, version 1) unpacks to.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.progress import track

from smd_mmdet._text import one_line
from smd_mmdet.datasets import convert_nuclei
from smd_mmdet.launch.arguments import OneLineParser, path_argument


def parse_args():
    parser = OneLineParser(description='Write the nuclei of BBBC038 as COCO data.')
    parser.add_argument('source', type=path_argument, help='the unpacked archive')
    parser.add_argument('directory', type=path_argument, help='a new directory')
    parser.add_argument(
        '--val',
        type=float,
        default=0.15,
        metavar='SHARE',
        help='share of the images to validate with (default: 0.15)',
    )
    return parser.parse_args()


def main():
    args = parse_args()
    progress = partial(track, console=Console(stderr=True))
    try:
        counts = convert_nuclei(args.source, args.directory, args.val, progress)
    except (OSError, ValueError) as error:
        print(f'error: {one_line(error)}', file=sys.stderr)
        return 2
    for split, (images, nuclei) in counts.items():
        print(f'{split}: {images:,} images, {nuclei:,} nuclei')
    return 0


if __name__ == '__main__':
    sys.exit(main())
