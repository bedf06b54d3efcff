# Mask R-CNN, BN: weights rescaled where the learning rate drops turn by the new Δ*.
_base_ = './mask-rcnn_r18_fpn_bn_3stage_shapes.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
