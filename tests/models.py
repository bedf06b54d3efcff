"""Small models, made by hand or of MMDetection's modules, and inputs for them."""

from pathlib import Path

import pytest
import torch
from torch import nn

BN = dict(type='BN', requires_grad=True)


GN = dict(type='GN', num_groups=4, requires_grad=True)
# What no norm follows in Mask R-CNN.
HEADS = ('rpn_', 'fc_', 'mask_head.upsample', 'conv_logits')


def images(channels=3, size=64, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, size, size, generator=generator)


def pyramid(channels=16, sizes=(16, 8, 4)):
    return [images(channels, size) for size in sizes]


class Block(nn.Module):
    """Layers by keyword, and a function that connects them."""

    def __init__(self, connect, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.connect = connect

    def forward(self, *inputs):
        return self.connect(self, *inputs)


def conv(bias=False, into=8, out=8, kernel=3):
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, bias=bias)


def mmdet_module(**config):
    pytest.importorskip('mmcv')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules()
    torch.manual_seed(0)
    return MODELS.build(config)


def resnet(**options):
    settings = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
    settings.update(norm_cfg=BN, norm_eval=False, frozen_stages=-1)
    return mmdet_module(**{**settings, **options})


def retina_head(kind, **options):
    return mmdet_module(
        type=kind,
        num_classes=5,
        in_channels=16,
        feat_channels=16,
        stacked_convs=2,
        **options,
    )


def config_file(name):

    import mmdet

    return Path(mmdet.__file__).parent / '.mim/configs' / name


def mask_rcnn(norm='BN', **backbone):
    pytest.importorskip('mmcv')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(
        config_file('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    ).model
    norm = dict(type=norm, requires_grad=True)
    settings = dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None)
    settings.update(norm_cfg=norm, norm_eval=False, frozen_stages=-1)
    config.backbone.update({**settings, **backbone})
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=norm)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    roi = config.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 16
    roi.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=3)
    roi.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=3)
    roi.mask_head.update(norm_cfg=norm)
    torch.manual_seed(0)
    return MODELS.build(config)


def retinanet(**head):
    pytest.importorskip('mmcv')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(
        config_file('retinanet/retinanet_r18_fpn_1x_coco.py')
    ).model
    config.backbone.update(base_channels=8, stem_channels=8, init_cfg=None)
    config.backbone.update(norm_eval=False, frozen_stages=-1)
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=BN)
    config.bbox_head.update(in_channels=16, feat_channels=16, num_classes=3)
    config.bbox_head.update(stacked_convs=2, norm_cfg=BN, **head)
    torch.manual_seed(0)
    return MODELS.build(config)
