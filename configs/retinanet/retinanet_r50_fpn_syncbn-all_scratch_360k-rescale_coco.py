# RetinaNet from scratch, rescaled: scale-invariant weights are divided by 10^(1/4)
# when the rate is divided by 10.
# Shows: beside the plain run (smd compare), Δ = Δ* right after each drop, and the AP.
# Expect: 69 scale-invariant weights; Δ* 1.03e-3, 3.24e-4, 1.03e-4 rad per iteration.
_base_ = './retinanet_r50_fpn_syncbn-all_scratch_360k_coco.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
