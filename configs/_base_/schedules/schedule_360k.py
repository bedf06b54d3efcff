# The paper's schedule for COCO: 360,000 iterations of 16 images (8 GPUs × 2), the rate
# divided by 10 at 300,000 and 340,000.
_base_ = 'mmdet::_base_/default_runtime.py'
max_iters = 360_000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=30_000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=False, milestones=[300_000, 340_000], gamma=0.1),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SMDOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
    # As in MMDetection's from-scratch configs; scale-invariant weights keep theirs.
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10_000, max_keep_ckpts=3))
log_processor = dict(by_epoch=False)
