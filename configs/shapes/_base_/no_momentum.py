# SGD without momentum. The rate is that of the run with momentum over 1 − 0.9, so the
# norm relaxes as fast: λη = 7.5e-3, 33 iterations.
_base_ = './fixed.py'
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.5, momentum=0.0, weight_decay=1e-4)
)
