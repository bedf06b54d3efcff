# RetinaNet from scratch on the paper's schedule, SyncBN in train mode, plain. The
# convolutions of the head are shared by five pyramid levels; each level has norms of
# its own, as shared ones would mix the levels' statistics at evaluation.
# Shows: the paper's result in a one-stage detector, and for shared convolutions.
# Expect: 69 scale-invariant weights; Δ* 1.03e-3, 3.24e-4, 1.03e-4 rad per iteration.
_base_ = '../_base_/retinanet_360k.py'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(type='RetinaSepBNHead', num_ins=5, norm_cfg=norm_cfg),
)
optim_wrapper = dict(paramwise_cfg=dict(bypass_duplicate=True))
