# RetinaNet, BN: the equilibrium of SGD without momentum.
_base_ = [
    './_base_/retinanet_bn.py',
    './_base_/runtime_boxes.py',
    './_base_/no_momentum.py',
]
