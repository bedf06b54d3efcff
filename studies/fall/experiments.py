"""Runs whose second stage is five relaxation times long."""

from ..real_images.experiments import plain_and_rescaled
from ..reproduction.experiments import Data, Experiment

__all__ = ['DATA', 'EXPERIMENTS']

DATA = {
    'nuclei_crops': Data(
        'data/nuclei_crops',
        ('-m', 'studies.fall.crops'),
        '--train 6000 --val 1500',
    )
}
TITLES = 'plain', 'rescaled'


def _crops(variant: str, group: str, rank: int, seeds: int) -> list[Experiment]:
    """Two stages on crops, plain and rescaled."""
    return plain_and_rescaled(
        f'resnet18_{variant}',
        f'configs/classification/resnet18_{variant}{{}}_nuclei.py',
        group,
        TITLES,
        rank,
        seeds=seeds,
        data='nuclei_crops',
        quick=True,
        figures=(),
    )


EXPERIMENTS = [
    *_crops('fall', 'ResNet-18 on crops of nuclei, λη = 2e-3', 0, seeds=5),
    *_crops('slow-fall', 'ResNet-18 on crops of nuclei, λη = 5e-4', 2, seeds=3),
    *plain_and_rescaled(
        'retinanet_bn_fall',
        'configs/nuclei/retinanet_r18_fpn_bn_fall{}_nuclei.py',
        'RetinaNet, BN, on nuclei, λη = 2e-3',
        TITLES,
        1,
        seeds=5,
        data='',
        quick=True,
        figures=(),
    ),
]
