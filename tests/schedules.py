"""Small configs whose schedules are planned."""

from mmengine.config import Config

STEP = dict(type='MultiStepLR', by_epoch=True, milestones=[2, 3], gamma=0.1)
COSINE = dict(type='CosineAnnealingLR', by_epoch=False, begin=0, eta_min=1e-3)
WARM = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7)


def config_of(schedulers=(), epochs=4, **optim) -> Config:
    """A config by epoch."""
    wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-3))
    return Config(
        dict(
            optim_wrapper=wrapper | optim,
            param_scheduler=list(schedulers),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
            train_dataloader=dict(batch_size=2, dataset=dict(type='CocoDataset')),
        )
    )


def config_by_iteration(schedulers, iters) -> Config:
    """A config by iteration."""
    config = config_of(schedulers)
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters)
    return config


def rescaled_config(schedulers, iters: int, **hook) -> Config:
    """A config by iteration with an SMDRescaleHook."""
    config = config_by_iteration(schedulers, iters)
    config.custom_hooks = [dict(type='SMDRescaleHook', **hook)]
    return config
