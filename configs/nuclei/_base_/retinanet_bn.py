# The small RetinaNet of configs/shapes for one class and many objects.
_base_ = '../../shapes/_base_/retinanet_bn.py'
model = dict(bbox_head=dict(num_classes=1), test_cfg=dict(nms_pre=500, max_per_img=250))
