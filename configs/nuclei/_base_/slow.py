# One learning rate, and a weight decay that brings equilibrium slowly.
_base_ = '../../shapes/_base_/slow.py'
train_cfg = dict(val_interval=300)
