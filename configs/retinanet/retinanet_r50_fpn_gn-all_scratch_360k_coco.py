# RetinaNet from scratch on the paper's schedule, group norm everywhere, plain. Group
# norm needs no statistics per level: the levels share the head with its norms.
# Shows: the paper's result in a one-stage detector without statistics of the batch.
# Expect: 69 scale-invariant weights; Δ* 1.03e-3, 3.24e-4, 1.03e-4 rad per iteration.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/coco_detection_ms.py',
    '../_base_/schedules/schedule_360k.py',
    '../_base_/smd.py',
]
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(
        norm_cfg=norm_cfg,
        norm_eval=False,
        frozen_stages=-1,
        init_cfg=None,
        zero_init_residual=False,
    ),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
