# The paper's Mask R-CNN on COCO, rescaled: scale-invariant weights are divided by
# 10^(1/4) when the rate is divided by 10, which puts them at their new equilibrium.
# Shows: beside the plain run (smd compare), Δ = Δ* right after each drop, and the AP.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3, 4.59e-4, 1.45e-4 rad per iteration.
_base_ = './mask-rcnn_r50_fpn_syncbn-all_scratch_360k_coco.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
