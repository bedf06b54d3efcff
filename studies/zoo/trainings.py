"""The trainings that MMDetection's installed configs describe."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from smd_mmdet.config.load import load_config
from smd_mmdet.config.shipped import find_config

__all__ = ['installed_configs']

# A config that is there in every release, to find the folder of all.
_ONE = 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def installed_configs() -> Iterator[tuple[str, Config]]:
    """Every config of the installed MMDetection that trains.

    Returns:
        Its path in the zoo, and the config. Those that cannot be read, because they
        inherit a file that was not shipped, are left out.
    """
    home = Path(str(find_config(f'mmdet::{_ONE}')).removesuffix(_ONE))
    for file in sorted(home.rglob('*.py')):
        if '_base_' in file.parts:
            continue
        name = str(file.relative_to(home))
        try:
            config = load_config(f'mmdet::{name}')
        except ValueError:
            continue
        if config.get('optim_wrapper'):
            yield name, config
