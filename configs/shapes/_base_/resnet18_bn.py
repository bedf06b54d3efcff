# A ResNet-18 of three stages, a quarter as wide, with train-mode BN.
norm_cfg = dict(type='BN', requires_grad=True)
backbone = dict(
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
)
