# One learning rate. Validated at the end.
_base_ = '../../shapes/_base_/fixed.py'
max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=600)
