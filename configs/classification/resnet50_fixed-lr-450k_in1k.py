# The paper's ResNet-50 on ImageNet at one learning rate: 0.2, λ 1e-4, α 0.9, batch 256.
# Shows: ‖w‖ comes to w* and Δ to Δ* for one conv layer after another, and stays.
# Expect: 53 scale-invariant weights; Δ* 4.59e-3 rad per iteration, ‖w‖⁴ relaxes within
# 1,250 iterations.
_base_ = ['mmpretrain::resnet/resnet50_8xb32_in1k.py', '../_base_/smd.py']
optim_wrapper = dict(
    constructor='SMDOptimWrapperConstructor', optimizer=dict(lr=0.2, weight_decay=1e-4)
)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=450_000, val_interval=5_000
)
param_scheduler = []
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=5_000, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False)
