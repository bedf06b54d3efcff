# Mask R-CNN, GN: weights rescaled at each drop of the learning rate turn by the new Δ* at once.
_base_ = './mask-rcnn_r18_fpn_gn_3stage_shapes.py'
custom_hooks = [
    dict(type='SMDHook', window=20, visualize=False),
    dict(type='SMDRescaleHook'),
]
