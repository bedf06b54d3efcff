# The paper's Mask R-CNN with group norm in the place of SyncBN, plain.
# Shows: the same motion without statistics of the batch, for GPUs that hold few images.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3, 4.59e-4, 1.45e-4 rad per iteration.
_base_ = './mask-rcnn_r50_fpn_syncbn-all_scratch_360k_coco.py'
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)),
)
