# A Mask R-CNN small enough for two CPU cores, with train-mode BN throughout.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './resnet18_bn.py']
norm_cfg = _base_.norm_cfg
# Three pyramid levels, each the right size for some of the shapes: a level that no
# object falls on is starved of gradient, and never comes to an equilibrium.
strides = [4, 8, 16]
channels = 32

model = dict(
    backbone=_base_.backbone,
    neck=dict(
        in_channels=[16, 32, 64], out_channels=channels, num_outs=3, norm_cfg=norm_cfg
    ),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4], strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=channels, featmap_strides=strides, finest_scale=16
        ),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=128,
            norm_cfg=norm_cfg,
            num_classes=5,
        ),
        mask_roi_extractor=dict(
            out_channels=channels, featmap_strides=strides, finest_scale=16
        ),
        mask_head=dict(
            in_channels=channels,
            conv_out_channels=channels,
            num_convs=2,
            norm_cfg=norm_cfg,
            num_classes=5,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=10)),
)
