# Mask R-CNN, BN, on nuclei: every layer put at its own equilibrium early on.
_base_ = './mask-rcnn_r18_fpn_bn_slow_nuclei.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SMDRescaleHook', start_at_equilibrium=True, at_lr_drops=False),
]
