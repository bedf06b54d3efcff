# Three stages, as on shapes: the first is 27 relaxation times long, the others are too
# short for weights that are not rescaled. Validated at the end of each.
_base_ = '../../shapes/_base_/three_stages.py'
train_cfg = dict(val_begin=900)
