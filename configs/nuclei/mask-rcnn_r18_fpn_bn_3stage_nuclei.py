# Mask R-CNN, BN, on nuclei: after a drop of the learning rate, Δ stays below its
# equilibrium.
_base_ = [
    './_base_/mask-rcnn_bn.py',
    './_base_/runtime.py',
    './_base_/three_stages.py',
]
