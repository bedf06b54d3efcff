# ResNet-18 on CIFAR-10 in stages, rescaled by 10^(-1/4) at both drops.
# Shows: beside the plain run (smd compare), whether accuracy still falls in the second
# stage.
_base_ = './resnet18_200e_cifar10.py'
custom_hooks = [*_base_.custom_hooks, dict(type='SMDRescaleHook')]
