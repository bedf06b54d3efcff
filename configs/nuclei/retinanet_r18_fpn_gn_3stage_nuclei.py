# RetinaNet, GN, on nuclei: after a drop of the learning rate, Δ stays below its
# equilibrium.
_base_ = [
    './_base_/retinanet_gn.py',
    './_base_/runtime_boxes.py',
    './_base_/three_stages_boxes.py',
]
