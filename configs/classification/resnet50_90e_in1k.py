# The paper's ResNet-50 on ImageNet in stages: 90 epochs, 0.1 ÷10 at 30, 60 and 80,
# batch 256 on 8 GPUs.
# Shows: Δ of all layers falls below Δ* at each drop and climbs back slowly.
# Expect: 53 scale-invariant weights; Δ* 3.24e-3, 1.03e-3, 3.24e-4, 1.03e-4 rad per
# iteration; ‖w‖⁴ relaxes within 2,500 iterations at first (half an epoch).
_base_ = ['mmpretrain::resnet/resnet50_8xb32_in1k.py', '../_base_/smd.py']
optim_wrapper = dict(constructor='SMDOptimWrapperConstructor')
train_cfg = dict(max_epochs=90)
param_scheduler = dict(milestones=[30, 60, 80])
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
