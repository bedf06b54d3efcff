"""The list of what is trained. Another model is another entry in it, nothing else."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ['DATA', 'EXPERIMENTS', 'Data', 'Experiment']


@dataclass(frozen=True)
class Experiment:
    """Runs of one config that differ by their seed.

    Args:
        name: Name of the experiment. Its runs lie in WORK_DIR/NAME-seedK.
        config: Path of the config in the repository.
        group: Name of the model; its experiments stand together on the page.
        title: What is done to the model, in a phrase.
        rank: Place in the order of training: lower ranks go first, and within one
            rank the first seed of every experiment goes before the second.
        seeds: How many runs there are, with seeds from 0.
        data: Key in :data:`DATA` of the data set it needs; '' for none.
        options: Settings of the config to change by ``--cfg-options``, besides the
            seed.
        against: Name of the experiment it is compared with, seed by seed; '' for none.
        quick: Whether ``--quick`` trains it, with the first seed.
        figures: Names of the figures of the first seed, as in ``smd report``.
        module: Module that is run in place of the config, where there is one, with
            name, seed and folder as its arguments; it goes on where it was ended.
    """

    name: str
    config: str
    group: str
    title: str
    rank: int
    seeds: int = 1
    data: str = 'shapes'
    options: dict[str, Any] = field(default_factory=dict)
    against: str = ''
    quick: bool = False
    figures: tuple[str, ...] = ('angular_update',)
    module: str = ''


@dataclass(frozen=True)
class Data:
    """A data set that is drawn once.

    Args:
        folder: Path of its folder in the repository.
        program: Arguments that make Python draw it; folder and options follow.
        options: Options that say how large it is, and the like. Once the data set is
            complete, they are written to ``FOLDER/made``.
    """

    folder: str
    program: tuple[str, ...]
    options: str


DATA = {
    'shapes': Data(
        'data/shapes', ('-m', 'smd_mmdet.cli', 'shapes'), '--train 500 --val 60'
    ),
    'shapes_cls': Data(
        'data/shapes_cls',
        ('-m', 'smd_mmdet.cli', 'shapes'),
        '--train 2000 --val 1000 --size 32 --kind classification',
    ),
}

# The figures that the paper shows of a run.
_PAPER = ('angular_update', 'weight_norm')


def _detector(prefix: str, variant: str, title: str, rank: int, **rest) -> Experiment:
    model, norm = prefix.split('_')
    names = {'mask-rcnn': 'Mask R-CNN', 'retinanet': 'RetinaNet'}
    return Experiment(
        name=f'{prefix}_{variant}',
        config=f'configs/shapes/{model}_r18_fpn_{norm}_{variant}_shapes.py',
        group=f'{names[model]}, {norm.upper()}',
        title=title,
        rank=rank,
        **rest,
    )


def _detectors(prefix: str, rank: int, seeds: int = 1, **rest) -> list[Experiment]:
    """The runs of the paper with one detector.

    Args:
        prefix: Beginning of their names, the detector and its norm.
        rank: Rank of the pair of plain and rescaled runs; the others are five later.
        seeds: Seeds of that pair.
        rest: Other fields of :class:`Experiment` for that pair.
    """
    return [
        _detector(prefix, '3stage', 'three stages, plain', rank, seeds=seeds, **rest),
        _detector(
            prefix,
            '3stage-rescaled',
            'three stages, rescaled',
            rank,
            seeds=seeds,
            against=f'{prefix}_3stage',
            **rest,
        ),
        _detector(prefix, 'fixed', 'fixed learning rate', rank + 5),
        _detector(prefix, 'no-momentum', 'without momentum', rank + 5),
    ]


def _classifier(variant: str, title: str, **rest) -> Experiment:
    return Experiment(
        name=f'resnet18{variant}',
        config=f'configs/classification/resnet18{variant}_shapes.py',
        group='ResNet-18',
        title=title,
        rank=1,
        data='shapes_cls',
        **rest,
    )


EXPERIMENTS = [
    *_detectors('mask-rcnn_bn', 0, seeds=3, quick=True, figures=_PAPER),
    _detector('mask-rcnn_bn', 'slow', 'slow equilibrium, plain', 2, seeds=3),
    _detector(
        'mask-rcnn_bn',
        'slow-start-at-equilibrium',
        'slow equilibrium, start at it',
        2,
        seeds=3,
        against='mask-rcnn_bn_slow',
    ),
    *_detectors('retinanet_bn', 1, seeds=3, quick=True),
    _classifier('_3stage', 'three stages, plain', seeds=3, figures=_PAPER),
    _classifier(
        '_3stage-rescaled',
        'three stages, rescaled',
        seeds=3,
        against='resnet18_3stage',
    ),
    _classifier('', 'fixed learning rate'),
    *_detectors('mask-rcnn_gn', 3, seeds=3),
    *_detectors('retinanet_gn', 4, seeds=3),
]
