# The shorter side of a training image is drawn from 640 to 800; images come in an
# endless stream, for schedules by iteration.
_base_ = './coco_detection.py'
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True
)
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
