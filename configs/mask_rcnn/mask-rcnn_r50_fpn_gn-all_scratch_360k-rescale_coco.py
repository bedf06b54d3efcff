# Mask R-CNN with group norm, rescaled at the drops of the rate.
# Shows: beside the plain run, Δ = Δ* right after each drop; group norm has no running
# statistics that a rescaling must follow.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3, 4.59e-4, 1.45e-4 rad per iteration.
_base_ = './mask-rcnn_r50_fpn_gn-all_scratch_360k_coco.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
