# RetinaNet, BN, on nuclei: a second stage long enough for Δ to climb back to Δ*, with a
# validation on 40 images every 40 iterations.
_base_ = ['./_base_/retinanet_bn.py', './_base_/runtime_boxes.py', './_base_/fall.py']
# Half the crop of the other configs, and two images: noise is what makes a score fall.
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomCrop', crop_type='relative', crop_size=(0.25, 0.25)
)
train_pipeline[3] = dict(
    type='RandomResize', scale=(256, 128), ratio_range=(0.75, 1.25), keep_ratio=True
)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
# With no file of annotations the evaluator takes those of the images that it is shown.
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=_base_.image_scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
val_dataloader = dict(dataset=dict(indices=40, pipeline=val_pipeline))
val_evaluator = dict(ann_file=None)
default_hooks = dict(logger=dict(interval=20))
