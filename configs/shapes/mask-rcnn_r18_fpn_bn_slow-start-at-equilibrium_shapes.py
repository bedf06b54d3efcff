# Mask R-CNN, BN: every layer put at its own equilibrium early on, with no rate drop.
_base_ = './mask-rcnn_r18_fpn_bn_slow_shapes.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SMDRescaleHook', start_at_equilibrium=True, at_lr_drops=False),
]
