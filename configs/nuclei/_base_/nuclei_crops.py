# Crops of the nuclei data, which the centre of each sorts into a class, as
# `python -m studies.fall.crops data/nuclei_crops` writes them.
_base_ = '../../_base_/shapes_classification.py'
data_root = 'data/nuclei_crops/'
metainfo = dict(classes=('background', 'edge', 'nucleus'), _delete_=True)
data_preprocessor = dict(num_classes=3)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
