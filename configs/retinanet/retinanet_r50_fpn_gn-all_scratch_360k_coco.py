# RetinaNet from scratch on the paper's schedule, group norm everywhere, plain. Group
# norm needs no statistics per level: the levels share the head with its norms.
# Shows: the paper's result in a one-stage detector without statistics of the batch.
# Expect: 69 scale-invariant weights; Δ* 1.03e-3, 3.24e-4, 1.03e-4 rad per iteration.
_base_ = '../_base_/retinanet_360k.py'
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg),
)
