# MMDetection's 1x schedule from ImageNet weights, with SyncBN in train mode.
# Shows: how much of the motion a usual schedule of 12 epochs sees. Its first stage of
# 58,640 iterations are 4.7 e-folds of ‖w‖⁴; the later ones are far too short.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3, 4.59e-4, 1.45e-4 rad per iteration.
_base_ = [
    'mmdet::_base_/default_runtime.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    '../_base_/models/mask-rcnn_r50_fpn_syncbn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/smd.py',
]
optim_wrapper = dict(constructor='SMDOptimWrapperConstructor')
