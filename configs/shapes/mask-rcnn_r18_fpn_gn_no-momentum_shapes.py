# Mask R-CNN, GN: the equilibrium of SGD without momentum.
_base_ = ['./_base_/mask-rcnn_gn.py', './_base_/runtime.py', './_base_/no_momentum.py']
