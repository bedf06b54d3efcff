# One learning rate. Validated at the end.
_base_ = '../../shapes/_base_/fixed.py'
train_cfg = dict(val_interval=700)
