# MMDetection's 2x schedule from ImageNet weights, with SyncBN in train mode.
# Shows: how much of the motion a usual schedule of 24 epochs sees. Its first stage of
# 117,280 iterations are 9.4 e-folds of ‖w‖⁴; the later ones are far too short.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3, 4.59e-4, 1.45e-4 rad per iteration.
_base_ = [
    'mmdet::_base_/default_runtime.py',
    'mmdet::_base_/schedules/schedule_2x.py',
    '../_base_/models/mask-rcnn_r50_fpn_syncbn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/smd.py',
]
optim_wrapper = dict(constructor='SMDOptimWrapperConstructor')
