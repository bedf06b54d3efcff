# Three stages for RetinaNet: at 0.4 of the others' rate its head has fewer bursts of
# large gradients, and it is given a third more iterations. λη, and with it Δ*, is that
# of the others. The first stage is 22 relaxation times long, the second 0.6, the third
# 0.06.
_base_ = './three_stages.py'
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_begin=800, val_interval=200)
optim_wrapper = dict(
    optimizer=dict(lr=0.02), paramwise_cfg=dict(scale_invariant_decay_mult=375.0)
)
param_scheduler = _base_.param_scheduler
param_scheduler[1]['milestones'] = [800, 1000]
