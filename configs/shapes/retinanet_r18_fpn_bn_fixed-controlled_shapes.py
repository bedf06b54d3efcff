# RetinaNet, BN: Δ is set to the Δ* of the rate and decay here, 2.81e-2, and does not
# follow another decay.
_base_ = './retinanet_r18_fpn_bn_fixed_shapes.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='SMDRescaleHook',
        angular_update=dict(
            value=2.81e-2,
            param_scheduler=[
                dict(
                    type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50
                )
            ],
        ),
    ),
]
