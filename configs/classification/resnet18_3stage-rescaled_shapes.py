# Three stages on shapes, rescaled by 10^(-1/4) at both drops.
# Shows: beside the plain run, Δ = Δ* right after each drop, and the accuracy.
_base_ = './resnet18_3stage_shapes.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
