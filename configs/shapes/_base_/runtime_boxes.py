# The same for detectors without masks.
_base_ = './runtime.py'
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
