# Data and bookkeeping of runs on two CPU cores: few lines in the log, one checkpoint.
_base_ = [
    'mmdet::_base_/default_runtime.py',
    './nuclei_instance.py',
    '../../_base_/smd.py',
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=150, max_keep_ckpts=1
    ),
)
log_processor = dict(by_epoch=False)
# Records hold everything: a second copy in the log would be ten times as large.
custom_hooks = [dict(type='SMDHook', window=20, visualize=False)]
randomness = dict(seed=0)
