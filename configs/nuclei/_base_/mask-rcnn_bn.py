# The small Mask R-CNN of configs/shapes for one class and many objects: anchors of 16,
# 32 and 64 pixels, and room for the 130 nuclei that one image in twenty has.
_base_ = '../../shapes/_base_/mask-rcnn_bn.py'
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=400, max_per_img=200),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=400), rcnn=dict(max_per_img=250)),
)
