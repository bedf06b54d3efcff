# A RetinaNet small enough for two CPU cores, with train-mode BN throughout. The convs
# of its head are shared by the pyramid levels, whose statistics differ: each level
# has norms of its own.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
norm_cfg = dict(type='BN', requires_grad=True)
strides = [4, 8, 16]
channels = 32

model = dict(
    backbone=dict(
        depth=18,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=None,
    ),
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
