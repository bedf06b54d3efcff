# The same with λη = 5e-4: ‖w‖⁴ relaxes within 50 iterations, after ÷10 within 500, so
# that the network has longer to learn what a small Δ lets it learn, and Δ is half as
# large.
# Shows: whether accuracy falls as Δ climbs, more slowly.
# Expect: 21 scale-invariant weights; Δ* 2.29e-2, 7.25e-3 rad per iteration.
_base_ = './resnet18_fall_nuclei.py'
max_iters = 3300
train_cfg = dict(max_iters=max_iters, val_begin=600, val_interval=100)
optim_wrapper = dict(paramwise_cfg=dict(scale_invariant_decay_mult=100.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=False, milestones=[800], gamma=0.1),
]
