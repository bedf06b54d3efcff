"""Draws the picture of the README from the quickstart's records.

    python docs/quickstart_figure.py [WORK_DIR] [PNG]
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[1]
PARTS = {  # Okabe and Ito's colours, told apart also without colour vision
    'backbone': '#0072B2',
    'neck': '#E69F00',
    'roi_head': '#009E73',
}


def main(work_dir, picture):
    records = read_records(work_dir)
    figure, axes = plt.subplots(figsize=(8, 4), layout='constrained')
    for name, rows in records.by_layer():
        square = rows['angular_update_mean'] ** 2 + rows['angular_update_var']
        ratio = np.sqrt(square) / rows['angular_update_eq']
        part = name.split('.')[0]
        axes.plot(rows['iter'], ratio, color=PARTS.get(part, 'grey'), lw=0.9, alpha=0.7)
    warmup = rows['iter'][rows['stage'] == -1]
    if len(warmup):
        axes.axvspan(0, warmup[-1], color='0.9', zorder=0)
        axes.text(warmup[-1], 4, ' warm-up', color='0.4', va='top')
    axes.axhline(1, color='black', lw=1)
    axes.set(
        yscale='log',
        ylim=(0.02, 5),
        xlim=(0, rows['iter'][-1]),
        xlabel='iteration',
        ylabel='angular update Δ / Δ*',
        title='Every scale-invariant layer comes to the angle the theory predicts',
    )
    axes.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    for part, colour in PARTS.items():
        axes.plot([], color=colour, label=part)
    axes.legend(loc='lower right', frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(picture, dpi=120)


if __name__ == '__main__':
    arguments = sys.argv[1:]
    main(
        arguments[0] if arguments else ROOT / 'work_dirs/quickstart',
        arguments[1] if len(arguments) > 1 else ROOT / 'docs/images/quickstart.png',
    )
