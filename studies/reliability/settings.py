"""Settings and configs that mean nothing, or harm."""

from pathlib import Path

from disturbed import plan_config, smd, train

from .case import Group, ask, refused

__all__ = ['CHANGES', 'CONFIGS', 'HOSTILE_SETTINGS', 'SENSIBLE', 'SETTINGS']

HOSTILE_SETTINGS = Group('Settings')

# The key that must be named, settings of SMDHook, and other settings of the config.
SETTINGS: tuple[tuple[str, dict, dict], ...] = (
    *(('window', dict(window=v), {}) for v in (0, -1, True, 1.5, '50', None)),
    *(('include', dict(include=v), {}) for v in (3, [3], ['('], {'a': 1})),
    *(('exclude', dict(exclude=v), {}) for v in ('nothing.here', [None], 1.0)),
    *(('verify', dict(verify=v), {}) for v in ('yes', 1, None)),
    *(('visualize', dict(visualize=v), {}) for v in ('no', 0)),
    *(('granularity', dict(granularity=v), {}) for v in ('atom', None, 3)),
    *(('report', dict(report=v), {}) for v in ('always', 1.5, None)),
    *(
        (key, {}, {'optim_wrapper.paramwise_cfg': {key: v}})
        for key in ('angular_update', 'scale_invariant_decay_mult')
        for v in ('fast', -1, float('nan'), float('inf'), True, [1])
    ),
    ('angular_update', {}, {'optim_wrapper.paramwise_cfg': {'angular_update': 3.0}}),
    ('include', {}, {'optim_wrapper.paramwise_cfg': {'include': 3}}),
    ('exclude', {}, {'optim_wrapper.paramwise_cfg': {'exclude': ['nothing.here']}}),
)


@HOSTILE_SETTINGS.case('hostile settings of SMDHook and its constructor')
def hostile_settings(folder: Path) -> str:
    """Numbers as text, booleans as numbers, NaN, infinity, None, unknown names."""
    faults = []
    for i, (key, hook, changes) in enumerate(SETTINGS):
        hook = hook or dict(window=10)
        run = folder / str(i)
        try:
            refused(lambda run=run, h=hook, c=changes: train(run, hook=h, **c), key)
        except Exception as fault:
            faults.append(f'{hook} {changes}: {fault!r}')
    ask(not faults, '\n'.join(faults))
    return f'{len(SETTINGS)} times refused before the first iteration, naming the key'


# Whole configs that cannot be read, or say nothing of a run.
CONFIGS: dict[str, str] = {
    'empty': '',
    'only a comment': '# nothing',
    'syntax error': 'a = (\n',
    'raises': 'raise RuntimeError("no")',
    'exits': 'import sys\nsys.exit(3)',
    'null byte': 'a = 1\0',
    'inherits itself': "_base_ = ['./inherits-itself.py']",
    'no such base': "_base_ = ['./nowhere.py']",
    'base is a number': '_base_ = 3',
    'model is a number': 'model = 3',
    'model of no such type': "model = dict(type='NoSuchThing')\n",
    'model without a type': 'model = dict(a=1)\n',
}
# Lines put at the end of a config that could be planned, whose settings they replace.
CHANGES: dict[str, str] = {
    'lr is text': "optim_wrapper['optimizer']['lr'] = 'fast'",
    'lr is negative': "optim_wrapper['optimizer']['lr'] = -0.1",
    'lr is NaN': "optim_wrapper['optimizer']['lr'] = float('nan')",
    'lr is None': "optim_wrapper['optimizer']['lr'] = None",
    'lr is huge': "optim_wrapper['optimizer']['lr'] = 1e300",
    'lr is infinite': "optim_wrapper['optimizer']['lr'] = float('inf')",
    'lr is a list': "optim_wrapper['optimizer']['lr'] = [0.1]",
    'weight decay is negative': "optim_wrapper['optimizer']['weight_decay'] = -1",
    'weight decay is text': "optim_wrapper['optimizer']['weight_decay'] = 'much'",
    'weight decay is None': "optim_wrapper['optimizer']['weight_decay'] = None",
    'weight decay is NaN': "optim_wrapper['optimizer']['weight_decay'] = float('nan')",
    'momentum is 1': "optim_wrapper['optimizer']['momentum'] = 1.0",
    'momentum is text': "optim_wrapper['optimizer']['momentum'] = 'a'",
    'optimizer is a list': "optim_wrapper['optimizer'] = [1]",
    'optim_wrapper is a number': 'optim_wrapper = 3',
    'optim_wrapper is None': 'optim_wrapper = None',
    'paramwise_cfg is a list': "optim_wrapper['paramwise_cfg'] = [1]",
    'custom_keys is a list': "optim_wrapper['paramwise_cfg'] = dict(custom_keys=[1])",
    'lr_mult is text': "optim_wrapper['paramwise_cfg'] = "
    "dict(custom_keys=dict(a=dict(lr_mult='x')))",
    'milestones are text': "param_scheduler['milestones'] = 'abc'",
    'milestones is a number': "param_scheduler['milestones'] = 4",
    'gamma is text': "param_scheduler['gamma'] = 'x'",
    'scheduler of no such type': "param_scheduler['type'] = 'NoSuchLR'",
    'scheduler is a number': 'param_scheduler = 3',
    'schedulers are numbers': 'param_scheduler = [1, 2]',
    'scheduler without type': "param_scheduler.pop('type')",
    'max_iters is text': "train_cfg['max_iters'] = 'many'",
    'max_iters is negative': "train_cfg['max_iters'] = -5",
    'max_iters is None': "train_cfg['max_iters'] = None",
    'max_iters is NaN': "train_cfg['max_iters'] = float('nan')",
    'max_iters is 0': "train_cfg['max_iters'] = 0",
    'max_iters is a fraction': "train_cfg['max_iters'] = 1.5",
    'train_cfg is a list': 'train_cfg = [1]',
    'no train_cfg': 'del train_cfg',
    'train_dataloader is a list': 'train_dataloader = [1]',
    'batch_size is text': "train_dataloader['batch_size'] = 'a'",
    'accumulative_counts is 0': "optim_wrapper['accumulative_counts'] = 0",
    'accumulative_counts is text': "optim_wrapper['accumulative_counts'] = 'a'",
    'accumulative_counts is huge': "optim_wrapper['accumulative_counts'] = 10**9",
    'auto_scale_lr is a list': 'auto_scale_lr = [1]',
    'by_epoch is text': "train_cfg = dict(by_epoch=True, max_epochs='a')",
    'model is a list': 'model = [1]',
    'backbone is text': "model = dict(backbone='resnet')",
    'frozen_stages is text': "model = dict(backbone=dict(frozen_stages='a'))",
}
# Such lines again, after which the config can still be planned.
SENSIBLE = {'milestones are unsorted': "param_scheduler['milestones'] = [40, 10, 10]"}


@HOSTILE_SETTINGS.case('hostile configs in `smd plan` and `smd audit`')
def hostile_configs(folder: Path) -> str:
    """Configs that are empty, broken, raise, exit, inherit themselves, or set rates,
    decays, milestones, lengths and whole sections to text, negative numbers, NaN, None
    and lists."""
    base, faults, count = plan_config(folder).read_text(), [], 0
    changed = CHANGES | SENSIBLE
    texts = CONFIGS | {name: f'{base}\n{text}' for name, text in changed.items()}
    for name, text in texts.items():
        path = folder / f'{name.replace(" ", "-")}.py'
        path.write_text(text)
        for command in ('plan',) if name in SENSIBLE else ('plan', 'audit'):
            allowed = {0, 1} if name in SENSIBLE else {2}
            try:
                code, error = smd(command, path)
            except BaseException as fault:
                faults.append(f'{name}: smd {command} raises {fault!r}')
                continue
            if code not in allowed or error.count('\n') != (code == 2):
                faults.append(f'{name}: smd {command} {code} {error}')
            count += 1
    ask(not faults, '\n'.join(faults))
    return f'{count} times one line on stderr and exit code 2'
