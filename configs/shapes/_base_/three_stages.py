# The usual three stages. The first is 27 relaxation times long; the others are too
# short for weights that are not rescaled, as COCO's are: 0.9 of the 333 iterations
# after ÷10, 0.09 of the 3,333 after ÷100 (COCO: 0.3 and 0.02).
_base_ = './fixed.py'
max_iters = 1500
train_cfg = dict(max_iters=max_iters, val_interval=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=False, milestones=[900, 1200], gamma=0.1),
]
