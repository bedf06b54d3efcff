"""The list of what is trained on real images, in the order of its importance."""

from dataclasses import replace

from ..reproduction.experiments import Experiment

__all__ = ['COCO', 'EXPERIMENTS', 'plain_and_rescaled']

PLAIN, RESCALED = 'three stages, plain', 'three stages, rescaled'


def plain_and_rescaled(
    name: str, config: str, group: str, titles: tuple[str, str], rank: int, **rest
) -> list[Experiment]:
    """A plain run, and the one that differs by a hook.

    Args:
        name: Name of the plain one; '-rescaled' is added for the other.
        config: Its config, with {} where the other's has '-rescaled'.
        group: Model and data.
        titles: What is done in the two.
        rank: Which come first; the lowest.
        **rest: Further settings of both.
    """
    return [
        Experiment(name, config.format(''), group, titles[0], rank, **rest),
        Experiment(
            f'{name}-rescaled',
            config.format('-rescaled'),
            group,
            titles[1],
            rank,
            against=name,
            **rest,
        ),
    ]


def _nuclei(prefix: str, rank: int, **rest) -> list[Experiment]:
    """Three stages on nuclei, plain and rescaled."""
    model, norm = prefix.split('_')
    names = {'mask-rcnn': 'Mask R-CNN', 'retinanet': 'RetinaNet'}
    return plain_and_rescaled(
        f'{prefix}_3stage',
        f'configs/nuclei/{model}_r18_fpn_{norm}_3stage{{}}_nuclei.py',
        f'{names[model]}, {norm.upper()}, on nuclei',
        (PLAIN, RESCALED),
        rank,
        data='',
        **rest,
    )


def _mask_rcnn(variant: str, title: str, rank: int, **rest) -> Experiment:
    return Experiment(
        f'mask-rcnn_bn_{variant}',
        f'configs/nuclei/mask-rcnn_r18_fpn_bn_{variant}_nuclei.py',
        'Mask R-CNN, BN, on nuclei',
        title,
        rank,
        data='',
        **rest,
    )


# The paper's models on COCO's images, as their configs are but for the length and the
# size of the images. That the measurement works there is all that 40 iterations show.
COCO = {
    'train_cfg.max_iters': 40,
    'train_cfg.val_interval': 40,
    'param_scheduler.0.end': 10,
    'param_scheduler.1.milestones': [25],
    'train_dataloader.dataset.pipeline.2.scale': [(192, 96), (192, 128)],
    'val_dataloader.dataset.pipeline.1.scale': (192, 96),
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'custom_hooks.0.window': 5,
    'default_hooks.checkpoint.interval': 20,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.logger.interval': 10,
}


def _coco(prefix: str, rank: int) -> list[Experiment]:
    """The paper's run in short, plain and rescaled."""
    model, norm = prefix.split('_')
    names = {'mask-rcnn': 'Mask R-CNN', 'retinanet': 'RetinaNet'}
    norms = {'syncbn': 'SyncBN', 'gn': 'GN'}
    folder, file = model.replace('-', '_'), f'{model}_r50_fpn_{norm}-all_scratch_360k'
    pair = plain_and_rescaled(
        f'coco_{prefix}',
        f'configs/{folder}/{file}{{}}_coco.py',
        f'{names[model]} R50, {norms[norm]}, on COCO',
        ('plain', 'rescaled'),
        rank,
        data='',
        options=COCO,
    )
    # The configs of COCO have another suffix.
    return [replace(e, config=e.config.replace('-rescaled', '-rescale')) for e in pair]


EXPERIMENTS = [
    *_nuclei('mask-rcnn_bn', 2, seeds=3, quick=True),
    _mask_rcnn('fixed', 'fixed learning rate', 5),
    _mask_rcnn('slow', 'slow equilibrium, plain', 6, seeds=3),
    _mask_rcnn(
        'slow-start-at-equilibrium',
        'slow equilibrium, start at it',
        6,
        seeds=3,
        against='mask-rcnn_bn_slow',
    ),
    *_nuclei('mask-rcnn_gn', 5),
    *_nuclei('retinanet_bn', 4, seeds=3),
    *_nuclei('retinanet_gn', 5),
    *_coco('mask-rcnn_syncbn', 3),
    *_coco('retinanet_gn', 3),
]
