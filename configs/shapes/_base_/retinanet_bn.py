# A RetinaNet small enough for two CPU cores, with train-mode BN throughout. The convs
# of its head are shared by the pyramid levels, whose statistics differ: each level
# has norms of its own.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './resnet18_bn.py']
norm_cfg = _base_.norm_cfg
strides = [4, 8, 16]
channels = 32

model = dict(
    backbone=_base_.backbone,
    neck=dict(
        in_channels=[16, 32, 64],
        out_channels=channels,
        start_level=0,
        add_extra_convs=False,
        num_outs=3,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        type='RetinaSepBNHead',
        num_ins=3,
        num_classes=5,
        in_channels=channels,
        stacked_convs=2,
        feat_channels=channels,
        norm_cfg=norm_cfg,
        anchor_generator=dict(scales_per_octave=2, strides=strides),
    ),
    test_cfg=dict(nms_pre=200, max_per_img=10),
)
