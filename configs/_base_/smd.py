# The monitor. A config that inherits this file adds, beside it,
#     optim_wrapper = dict(constructor='SMDOptimWrapperConstructor')
# (MMEngine does not let two base files set the same key, and every base of
# MMDetection sets optim_wrapper.)
custom_imports = dict(imports=['smd_mmdet'], allow_failed_imports=False)
custom_hooks = [dict(type='SMDHook', window=50)]
