# Mask R-CNN from scratch whose layers are put at their equilibrium norm by rescaling
# soon after the warm-up, without a change of what the network computes.
# Shows: beside the plain run, Δ = Δ* after some hundred iterations where the plain run
# takes some 12,500 per e-fold of ‖w‖⁴, and what that does to the AP.
# Expect: 69 scale-invariant weights; Δ* 1.45e-3, 4.59e-4, 1.45e-4 rad per iteration.
_base_ = './mask-rcnn_r50_fpn_syncbn-all_scratch_360k_coco.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SMDRescaleHook', start_at_equilibrium=True, at_lr_drops=False),
]
