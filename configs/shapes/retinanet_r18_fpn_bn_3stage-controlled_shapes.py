# RetinaNet, BN: Δ is set to the Δ* of every iteration's rate.
_base_ = './retinanet_r18_fpn_bn_3stage_shapes.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SMDRescaleHook', angular_update='equilibrium'),
]
