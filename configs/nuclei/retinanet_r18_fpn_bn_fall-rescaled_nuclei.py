# RetinaNet, BN, on nuclei: the same, with Δ at the new Δ* from the drop on.
_base_ = './retinanet_r18_fpn_bn_fall_nuclei.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
