"""What rescaling does to outputs, and to the angular update in the iterations after it.

    python benchmarks/rescale.py [--config CONFIG] [--data FOLDER] [--seed N]

Trains the small Mask R-CNN on shapes: plain and rescaled with two drops of the learning
rate, then plain and started at equilibrium. Prints

* the largest change of the evaluated outputs at each rescaling, relative to the
  largest output: feature maps, box scores and deltas, class scores, mask logits;
* Δ_rms/Δ*, the median over layers and the lowest, over the first 1, 10 and 100
  iterations of each stage;
* the same for spans of iterations after the start at equilibrium.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from smd_mmdet.config.load import load_config
from smd_mmdet.datasets.shapes import write_shapes
from smd_mmdet.records import read_records

CONFIG = 'configs/shapes/mask-rcnn_r18_fpn_bn_3stage_shapes.py'
MILESTONES = (600, 900)
ITERATIONS = 1050
START = dict(begin=50, measure=100, repeats=3)
SLOW = 30.0  # multiplies the decay: layers are far from equilibrium for long
SLOW_ITERATIONS = 600


class Outputs(Hook):
    """Evaluated outputs in front of an iteration; ``late`` looks after rescaling."""

    def __init__(self, late: bool) -> None:
        self.priority = 'LOW' if late else 'NORMAL'
        self.seen: dict[int, list[torch.Tensor]] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        # Every 50th and the milestones: rescaling happens nowhere else here.
        if runner.iter % 50 == 0 and runner.iter:
            self.seen[runner.iter] = outputs_of(runner.model)


@torch.no_grad()
def outputs_of(model) -> list[torch.Tensor]:
    """Outputs of every part of a Mask R-CNN, in float64, on fixed images and boxes."""
    model = copy.deepcopy(getattr(model, 'module', model)).double()
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 128, 128, generator=generator, dtype=torch.float64)
    corners = torch.rand(8, 2, generator=generator, dtype=torch.float64) * 64
    sides = 16 + torch.rand(8, 2, generator=generator, dtype=torch.float64) * 48
    index = torch.arange(8, dtype=torch.float64).remainder(2).unsqueeze(1)
    boxes = torch.cat([index, corners, corners + sides], 1).to(device)
    maps = model.extract_feat(images.to(device))
    heads = model.roi_head
    found = [*maps, *(part for level in model.rpn_head(maps) for part in level)]
    extractor = heads.bbox_roi_extractor
    found += heads.bbox_head(extractor(maps[: extractor.num_inputs], boxes))
    extractor = heads.mask_roi_extractor
    found.append(heads.mask_head(extractor(maps[: extractor.num_inputs], boxes)))
    return [part.cpu() for part in found]


def change(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    return max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(after, before, strict=True)
    )


def train(config, work_dir: Path, *hooks: dict) -> tuple[dict, dict[int, float]]:
    """One run: its angular updates, and the changes of its outputs."""
    config = copy.deepcopy(config)
    config.work_dir = str(work_dir)
    config.custom_hooks = [
        dict(type='SMDHook', window=1, visualize=False, verify=False),
        *hooks,
    ]
    early, late = Outputs(late=False), Outputs(late=True)
    runner = Runner.from_cfg(config)
    runner.register_hook(early)
    runner.register_hook(late)
    runner.train()
    columns = read_records(work_dir).table.to_pydict()
    changes = {t: change(early.seen[t], late.seen[t]) for t in early.seen}
    return columns, {t: c for t, c in changes.items() if c > 0}


def ratio(columns: dict, first: int, last: int) -> str:
    """Δ_rms/Δ* over iterations first to last: median over layers, and the lowest."""
    iterations = np.array(columns['iter'])
    chosen = (iterations >= first) & (iterations <= last)
    layers = np.array(columns['layer'])[chosen]
    mean = np.array(columns['angular_update_mean'])[chosen]
    square = (mean / np.array(columns['angular_update_eq'])[chosen]) ** 2
    ratios = [
        np.sqrt(np.nanmean(square[layers == layer])) for layer in np.unique(layers)
    ]
    return f'{np.nanmedian(ratios):.3f} ({np.nanmin(ratios):.3f})'


def show(title: str, runs: dict[str, dict], spans: list[tuple[int, int]]) -> None:
    print(f'\n{title}\n{"iterations":>14}', *(f'{name:>16}' for name in runs))
    for first, last in spans:
        cells = (f'{ratio(columns, first, last):>16}' for columns in runs.values())
        print(f'{first:>6} – {last:>5}', *cells, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description='What rescaling does.')
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--data', help='shapes data; drawn anew if left out')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(args.data or Path(folder) / 'shapes')
        if args.data is None:
            write_shapes(data, train=300, val=4, size=128, seed=0)
        compare(load_config(args.config, changes(data, args.seed)), Path(folder))


def changes(data: Path, seed: int) -> dict:
    return {
        'randomness.seed': seed,
        'train_dataloader.dataset.data_root': f'{data}/',
        'train_cfg.max_iters': ITERATIONS,
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None,
        'train_cfg.val_interval': ITERATIONS + 1,
        'default_hooks.checkpoint.interval': ITERATIONS + 1,
    }


def compare(config, folder: Path) -> None:
    config.param_scheduler = [
        dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
        dict(
            type='MultiStepLR', by_epoch=False, milestones=list(MILESTONES), gamma=0.1
        ),
    ]
    plain, _ = train(config, folder / 'plain')
    rescaled, moved = train(config, folder / 'rescaled', dict(type='SMDRescaleHook'))
    for iteration, largest in moved.items():
        print(f'outputs at iteration {iteration + 1}: changed by {largest:.2e}')
    spans = [(m + 1, m + n) for m in MILESTONES for n in (1, 10, 100)]
    runs = {'plain': plain, 'rescaled': rescaled}
    show('Δ_rms/Δ* after a drop: median over layers (lowest)', runs, spans)

    config.param_scheduler = config.param_scheduler[:1]
    config.optim_wrapper.paramwise_cfg.scale_invariant_decay_mult = SLOW
    config.train_cfg.max_iters = SLOW_ITERATIONS
    hook = dict(type='SMDRescaleHook', at_lr_drops=False, start_at_equilibrium=START)
    runs = {'plain': train(config, folder / 'slow')[0]}
    runs['started'], moved = train(config, folder / 'started', hook)
    for iteration, largest in moved.items():
        print(f'outputs at iteration {iteration + 1}: changed by {largest:.2e}')
    spans = [(first + 1, first + 50) for first in range(100, SLOW_ITERATIONS, 50)]
    show('Δ_rms/Δ* with a start at equilibrium: median (lowest)', runs, spans)


if __name__ == '__main__':
    main()
