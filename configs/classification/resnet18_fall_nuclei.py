# ResNet-18 on crops of nuclei: a second stage of five relaxation times, long enough for
# Δ to climb back to Δ*. λη = 5e-4: ‖w‖⁴ relaxes within 50 iterations, after ÷10 within
# 500: while Δ is small the network has time to learn what a small Δ lets it learn.
# Shows: whether accuracy falls as Δ climbs, which is the paper's reason to rescale.
# Expect: 21 scale-invariant weights; Δ* 2.29e-2, 7.25e-3 rad per iteration.
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    'mmpretrain::_base_/default_runtime.py',
    '../nuclei/_base_/nuclei_crops.py',
    '../nuclei/_base_/fall.py',
    '../_base_/smd.py',
]
model = dict(
    backbone=dict(stem_channels=8, base_channels=8, strides=(2, 2, 2, 2)),
    head=dict(num_classes=3, in_channels=64),
)
max_iters = 3300
train_cfg = dict(max_iters=max_iters, val_begin=600, val_interval=100)
optim_wrapper = dict(paramwise_cfg=dict(scale_invariant_decay_mult=100.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=False, milestones=[800], gamma=0.1),
]
val_cfg = dict(_delete_=True)
test_cfg = dict(_delete_=True)
custom_hooks = [dict(type='SMDHook', window=20, visualize=False)]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=150, max_keep_ckpts=1
    ),
)
log_processor = dict(by_epoch=False)
