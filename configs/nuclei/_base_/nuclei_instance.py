# The nuclei of BBBC038 in data/nuclei, or where the environment variable NUCLEI_ROOT
# says, as tools/dataset_converters/nuclei.py writes them.
#
# Half the images are of 256 × 256 pixels with nuclei of 13, others of up to 696 × 520
# with nuclei of 27. With the shorter side at 512 most nuclei measure 13 to 65 pixels.
dataset_type = 'CocoDataset'
data_root = '{{$NUCLEI_ROOT:data/nuclei}}/'
metainfo = dict(classes=('nucleus',))
image_scale = (1024, 512)
# Part of each side that a training crop shows: 192 of 512.
crop = 0.375

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    # Before the change of scale, which then has fewer masks to scale.
    dict(type='RandomCrop', crop_type='relative', crop_size=(crop, crop)),
    dict(
        type='RandomResize',
        scale=(384, 192),
        ratio_range=(0.75, 1.25),
        keep_ratio=True,
    ),
    dict(
        type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/val.json',
    metric=['bbox', 'segm'],
)
test_evaluator = val_evaluator
