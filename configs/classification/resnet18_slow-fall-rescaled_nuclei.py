# ResNet-18 on crops of nuclei, rescaled by 10^(-1/4) at the drop.
# Shows: beside the plain run, accuracy with Δ at the new Δ* from the drop on.
# Expect: 21 scale-invariant weights; Δ* 2.29e-2, 7.25e-3 rad per iteration.
_base_ = './resnet18_slow-fall_nuclei.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
