# ResNet-18 on CIFAR-10 in stages: 200 epochs, 0.1 ÷10 at 100 and 150, batch 128 on one
# GPU.
# Shows: accuracy in the second stage, while Δ climbs back towards its equilibrium.
# Expect: 20 scale-invariant weights; Δ* 3.24e-3, 1.03e-3, 3.24e-4 rad per iteration;
# ‖w‖⁴ relaxes within 2,500 iterations at first (6 epochs), 25,000 after the first drop.
_base_ = ['mmpretrain::resnet/resnet18_8xb16_cifar10.py', '../_base_/smd.py']
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(constructor='SMDOptimWrapperConstructor')
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2))
