# Three stages on shapes, after the paper's CIFAR-10 run.
# Shows: after the first drop Δ is a tenth, 0.32 of the new Δ*, and climbs with the
# shrinking norm to 0.74 of it by the end of stage 1; look at the accuracy meanwhile.
# Expect: Δ* 3.24e-2, 1.03e-2, 3.24e-3 rad per iteration.
_base_ = './resnet18_shapes.py'
max_iters = 1400
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=False, milestones=[600, 1200], gamma=0.1),
]
