# Mask R-CNN, BN, on nuclei: weights rescaled where the learning rate drops turn by the
# new Δ*.
_base_ = './mask-rcnn_r18_fpn_bn_3stage_nuclei.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
