# Control: MMDetection's stock Mask R-CNN, whose batch norms are frozen.
# Shows: no weight of it is scale-invariant, so norms and angles follow no law; what
# include names is measured all the same, and smd check says "not applicable".
# Expect: 0 scale-invariant weights; Δ* (of none of them) 1.45e-3, 4.59e-4, 1.45e-4 rad.
_base_ = [
    'mmdet::_base_/default_runtime.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/smd.py',
]
optim_wrapper = dict(constructor='SMDOptimWrapperConstructor')
# The weights that smd measures in the other configs, those of frozen stages aside.
include = [
    'backbone.*.conv?.weight',
    'backbone.*.downsample.0.weight',
    'neck.*.conv.weight',
    'roi_head.mask_head.convs.*.conv.weight',
]
custom_hooks = [dict(type='SMDHook', window=50, include=include)]
