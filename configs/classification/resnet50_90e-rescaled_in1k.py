# ResNet-50 on ImageNet in stages, rescaled: scale-invariant weights are divided by
# 10^(1/4) when the rate is divided by 10.
# Shows: beside the plain run (smd compare), Δ = Δ* right after each drop.
_base_ = './resnet50_90e_in1k.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
