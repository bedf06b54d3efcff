# One learning rate, and a weight decay that brings equilibrium slowly: λη = 1.5e-4,
# ‖w‖⁴ relaxes within 167 iterations. Assumption 4 of the theory can hold here.
_base_ = './fixed.py'
max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=200)
optim_wrapper = dict(paramwise_cfg=dict(scale_invariant_decay_mult=30.0))
