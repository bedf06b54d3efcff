# Mask R-CNN, BN, on nuclei: every layer comes to equilibrium at one learning rate.
_base_ = ['./_base_/mask-rcnn_bn.py', './_base_/runtime.py', './_base_/fixed.py']
