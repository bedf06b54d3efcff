_base_ = ['./_base_/mask-rcnn_bn.py', './_base_/runtime.py', './_base_/three_stages.py']
