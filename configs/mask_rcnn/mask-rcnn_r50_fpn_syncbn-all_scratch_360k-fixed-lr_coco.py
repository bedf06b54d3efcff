# Mask R-CNN from scratch at one learning rate, as the paper's fixed-rate run.
# Shows: ‖w‖ follows w* and Δ stays at Δ*, through 28 e-folds of ‖w‖⁴. AP suffers:
# there is no drop for it to gain from.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3 rad per iteration.
_base_ = './mask-rcnn_r50_fpn_syncbn-all_scratch_360k_coco.py'
param_scheduler = _base_.param_scheduler[:1]  # the warm-up
