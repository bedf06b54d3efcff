# The fall: two stages, of which the second lasts five relaxation times, so that the
# norms of a plain run shrink to their new equilibrium within it, and Δ climbs from 0.32
# of the new Δ* to Δ* itself. λη = 2e-3: ‖w‖⁴ relaxes within 12.5 iterations, after ÷10
# within 125. Δ* is 4.59e-2, then 1.45e-2 rad per iteration.
max_iters = 1040
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=max_iters, val_begin=320, val_interval=40
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SMDOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(scale_invariant_decay_mult=400.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=False, milestones=[400], gamma=0.1),
]
