# MMDetection's RTMDet-tiny, measured: AdamW, SyncBN in train mode, an EMA of the
# weights, a flat and then a cosine schedule.
# Shows: Δ* of a decoupled decay, √(2ηλ(1−β₁)/(1+β₁)), in a detector as it is trained;
# it falls with the root of the rate in the second half.
# Expect: 68 scale-invariant weights; Δ* 4.59e-3, then to 1.03e-3 rad per iteration.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
data_root = '{{$COCO_ROOT:data/coco}}/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

custom_imports = dict(imports=['smd_mmdet'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='SMDHook', window=50)]
optim_wrapper = dict(constructor='SMDOptimWrapperConstructor')
auto_scale_lr = dict(base_batch_size=256)  # 8 GPUs × 32
