# RetinaNet, BN: every layer comes to equilibrium at one learning rate.
_base_ = ['./_base_/retinanet_bn.py', './_base_/runtime_boxes.py', './_base_/fixed.py']
