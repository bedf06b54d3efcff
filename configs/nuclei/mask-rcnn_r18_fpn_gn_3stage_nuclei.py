# Mask R-CNN, GN, on nuclei: after a drop of the learning rate, Δ stays below its
# equilibrium.
_base_ = [
    './_base_/mask-rcnn_gn.py',
    './_base_/runtime.py',
    './_base_/three_stages.py',
]
