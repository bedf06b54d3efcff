# Mask R-CNN, BN, on nuclei: most layers are far above equilibrium for the first
# hundreds of iterations.
_base_ = ['./_base_/mask-rcnn_bn.py', './_base_/runtime.py', './_base_/slow.py']
