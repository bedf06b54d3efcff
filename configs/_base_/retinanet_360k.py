# RetinaNet R50-FPN from scratch on the paper's schedule, every stage trained; to be
# completed by the norms. Half of Mask R-CNN's rate, as usual.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    './datasets/coco_detection_ms.py',
    './schedules/schedule_360k.py',
    './smd.py',
]
model = dict(
    backbone=dict(
        norm_eval=False, frozen_stages=-1, init_cfg=None, zero_init_residual=False
    )
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
