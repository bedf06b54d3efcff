# ResNet-18 on crops of nuclei: a second stage of five relaxation times, long enough for
# Δ to climb back to Δ*, with a validation every 40 iterations. λη = 2e-3.
# Shows: whether accuracy falls as Δ climbs, which is the paper's reason to rescale.
# Expect: 21 scale-invariant weights; Δ* 4.59e-2, 1.45e-2 rad per iteration.
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
