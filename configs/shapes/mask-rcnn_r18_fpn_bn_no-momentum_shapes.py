# Mask R-CNN, BN: the equilibrium of SGD without momentum.
_base_ = ['./_base_/mask-rcnn_bn.py', './_base_/runtime.py', './_base_/no_momentum.py']
