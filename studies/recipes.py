"""Writes the angular updates of known recipes: smd_mmdet/recipes.json, docs/recipes.md.

What is written of each recipe is read from the installed MMDetection's config, as
`smd plan` reads it.

    python -m studies.recipes
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import mmdet

from smd_mmdet.config.load import load_config
from smd_mmdet.config.training import read_training
from smd_mmdet.launch.arguments import OneLineParser
from smd_mmdet.recipes import Recipe, peak_and_total

from .markdown import table

# What the recipes are called, and their configs.
DETECTION = {
    'Mask R-CNN 1x': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'RetinaNet 1x': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'RetinaNet 2x': 'retinanet/retinanet_r50_fpn_2x_coco.py',
    'Mask R-CNN GN from scratch 6x': (
        'scratch/mask-rcnn_r50-scratch_fpn_gn-all_6x_coco.py'
    ),
    'RegNet 3x': 'regnet/mask-rcnn_regnetx-3.2GF_fpn_ms-3x_coco.py',
    'NAS-FPN crop 640': 'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py',
    'Faster R-CNN large-scale jitter': (
        'faster_rcnn/faster-rcnn_r50_fpn_8xb8-amp-lsj-200e_coco.py'
    ),
    'YOLOF': 'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'SSD300': 'ssd/ssd300_coco.py',
    'YOLOv3-320': 'yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'YOLOX-s': 'yolox/yolox_s_8xb8-300e_coco.py',
    'RTMDet-s': 'rtmdet/rtmdet_s_8xb32-300e_coco.py',
    'RTMDet-x P6': 'rtmdet/rtmdet_x_p6_4xb8-300e_coco.py',
    'DETR': 'detr/detr_r50_8xb2-150e_coco.py',
    'Deformable DETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'DINO 12e': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'Sparse R-CNN': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'Mask2Former': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'Swin-T Mask R-CNN 1x': 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'ConvNeXt-T Mask R-CNN 3x': (
        'convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
    ),
}
CLASSIFICATION = {
    'CSPNeXt-s on ImageNet': (
        'rtmdet/classification/cspnext-s_8xb256-rsb-a1-600e_in1k.py'
    ),
}
PACKAGE = Path(__file__).parents[1] / 'smd_mmdet'
HEADER = """\
# Angular updates of known recipes

Written by `python -m studies.recipes` from the configs of MMDetection {version}; do not
edit.

Whether a layer is at its equilibrium says nothing of whether its Δ* is a sensible
angle. Here are those of recipes that work: Δ* at the highest rate, for scale-invariant
weights with the rate and the decay of the config, and Δ* summed over the whole
training. `smd plan` sets a schedule beside the nearest of them, and says if it is more
than twice the largest, or less than half of the smallest, of those that train
detectors.

These are equilibrium values, and not every recipe comes to its equilibrium. With DETR's
learning rate and decay a norm needs tens of millions of iterations to get there: its
layers keep the norm that they begin with, and turn faster than Δ*.

"""
COLUMNS = (
    *('recipe', 'config', 'optimizer', 'images a step', 'iterations'),
    *('Δ* (rad)', 'Σ Δ* (rad)'),
)


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(
        prog='python -m studies.recipes',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--data', type=Path, default=PACKAGE / 'recipes.json')
    parser.add_argument('--page', type=Path, default=Path('docs/recipes.md'))
    return parser.parse_args()


def read_recipe(title: str, name: str, detection: bool) -> Recipe:
    """A recipe as its config describes it.

    Args:
        title: What it trains.
        name: Path of its config in the zoo.
        detection: Whether it trains a detector.
    """
    config = load_config(f'mmdet::{name}')
    training = read_training(config)
    optimizer = training.optimizer
    schedule = training.schedule.every(training.accumulation)
    peak, total = peak_and_total(
        schedule.lr, optimizer.weight_decay, schedule.momentum, optimizer.theory
    )
    return Recipe(
        title=title,
        config=name,
        optimizer=optimizer.name,
        images=training.length.processes
        * config.train_dataloader.batch_size
        * training.accumulation,
        iterations=len(schedule.lr),
        angular_update=peak,
        total=total,
        detection=detection,
    )


def page(recipes: list[Recipe]) -> str:
    """docs/recipes.md."""
    rows = (
        (
            recipe.title,
            f'`{recipe.config}`',
            recipe.optimizer,
            recipe.images,
            f'{recipe.iterations:,}',
            f'{recipe.angular_update:.2e}',
            f'{recipe.total:,.0f}' if recipe.total >= 100 else f'{recipe.total:.3g}',
        )
        for recipe in sorted(recipes, key=lambda recipe: recipe.angular_update)
    )
    return HEADER.format(version=mmdet.__version__) + table(COLUMNS, rows) + '\n'


def main() -> None:
    args = parse_args()
    recipes = [
        read_recipe(title, name, titles is DETECTION)
        for titles in (DETECTION, CLASSIFICATION)
        for title, name in titles.items()
    ]
    content = dict(mmdet=mmdet.__version__, recipes=[asdict(r) for r in recipes])
    args.data.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    args.page.write_text(page(recipes))


if __name__ == '__main__':
    main()
