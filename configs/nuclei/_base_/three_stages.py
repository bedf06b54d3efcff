# Three stages. The first is 16 relaxation times long; the others are too short for
# weights that are not rescaled, as COCO's are: 0.45 of the 333 iterations after ÷10,
# 0.045 of the 3,333 after ÷100 (COCO: 0.3 and 0.02). Validated at the end of each.
_base_ = '../../shapes/_base_/fixed.py'
max_iters = 900
train_cfg = dict(max_iters=max_iters, val_begin=600, val_interval=150)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=False, milestones=[600, 750], gamma=0.1),
]
