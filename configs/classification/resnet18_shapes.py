# The CIFAR form of ResNet-18, an eighth as wide and of
# half the resolution, on drawn shapes: minutes on one core.
# Shows: every scale-invariant layer comes to its equilibrium. λη = 1e-3 for these
# layers, so ‖w‖⁴ relaxes within 25 iterations (CIFAR-10: 2,500).
# Expect: 21 scale-invariant weights; Δ* 3.24e-2 rad per iteration.
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/shapes_classification.py',
    '../_base_/smd.py',
]
model = dict(
    backbone=dict(stem_channels=8, base_channels=8, strides=(2, 2, 2, 2)),
    head=dict(num_classes=5, in_channels=64),
)
max_iters = 600
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=100)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    constructor='SMDOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(scale_invariant_decay_mult=100.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50)
]
custom_hooks = [dict(type='SMDHook', window=20, visualize=False)]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=150, max_keep_ckpts=1
    ),
)
log_processor = dict(by_epoch=False)
