# The small RetinaNet of configs/shapes for one class and many objects: each of the 130
# nuclei that one image in twenty has is found by several anchors.
_base_ = '../../shapes/_base_/retinanet_bn.py'
model = dict(
    bbox_head=dict(num_classes=1), test_cfg=dict(nms_pre=2000, max_per_img=400)
)
