# The paper's Mask R-CNN on COCO, plain: from random initialization as in He et al.
# 2019, "Rethinking ImageNet Pre-training". 8 GPUs × 2 images.
# Shows: Δ of all layers comes to Δ* in the first stage, and stays below it after the
# drops: the norms cannot shrink in the 40,000 and 20,000 iterations that are left.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3, 4.59e-4, 1.45e-4 rad per iteration.
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn_syncbn.py',
    '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/schedule_360k.py',
    '../_base_/smd.py',
]
model = dict(backbone=dict(init_cfg=None, zero_init_residual=False))
