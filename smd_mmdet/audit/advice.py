"""Config lines that would give a model scale-invariant weights, if it has none."""

import inspect
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

NORM = "dict(type='SyncBN', requires_grad=True)"


COST = (
    'What it costs: SyncBN exchanges statistics between GPUs at every norm, and needs '
    'several GPUs or a large batch (16 images in all, say); on one GPU with few images '
    "prefer dict(type='GN', num_groups=32, requires_grad=True), which is slower and "
    'does not fit weights pre-trained with BN.',
    'Unfrozen stages and norms in train mode take more memory and time: gradients '
    'flow through the whole backbone, and its norms keep their inputs.',
    'Accuracy changes: pre-trained statistics are no longer held fixed. Short '
    'schedules are tuned for frozen ones; the paper trains for 360k iterations.',
)


def advice(config: Config, parameters: list[dict]) -> list[str]:
    """Config lines that would make the theory apply, if it applies to no weight."""
    if any(p['invariant'] for p in parameters):
        return []
    parts = _parts(config['model'])
    if not parts:
        return [
            'No weight is scale-invariant: none is followed by a norm that uses the '
            'statistics of batch or sample, and no part of the model takes a norm_cfg.'
        ]
    reasons = [reason for _, _, reason in parts if reason]
    why = '; '.join(dict.fromkeys(reasons)) or 'no norm follows any convolution'
    lines = [f'No weight is scale-invariant: {why}. To have some, add to the config:']
    lines += [f'norm_cfg = {NORM}', 'model = dict(']
    for path, settings, _ in parts:
        lines.append(f'    {_nested(path, settings)},')
    return [*lines, ')', *COST]


def _parts(model: dict) -> list[tuple[tuple[str, ...], str, str]]:
    """Parts of a detector that take a norm_cfg: path, new settings, what is wrong."""
    places = [
        ('backbone',),
        ('neck',),
        ('bbox_head',),
        ('mask_head',),
        ('roi_head', 'bbox_head'),
        ('roi_head', 'mask_head'),
    ]
    prefix = ('detector',) if isinstance(model.get('detector'), dict) else ()
    found = []
    for place in places:
        path = prefix + place
        part = model
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict):
            settings, reason = _part(path[-1], part)
            if settings:
                found.append((path, settings, reason))
    return found


def _part(name: str, part: dict) -> tuple[str, str]:
    options = _options(part.get('type'))
    settings, wrong = [], []
    if part.get('norm_eval', 'norm_eval' in options):
        settings.append('norm_eval=False')
        wrong.append(f'norm_eval=True fixes the statistics of the {name}')
    # EfficientNet counts its stages from the stem: 0 freezes none.
    free = 0 if part.get('type') == 'EfficientNet' else -1
    frozen = part.get('frozen_stages', free)
    if isinstance(frozen, int) and frozen > free:
        settings.append(f'frozen_stages={free}')
        wrong.append(f'frozen_stages={frozen} keeps its first stages from training')
    # Heads of fully connected layers take a norm_cfg too and have nothing to norm.
    useful = 'norm_cfg' in options and part.get('num_shared_convs', 1) != 0
    if part.get('type') == 'Shared2FCBBoxHead':
        useful = False
    if useful and _kind(part) not in ('GN', 'SyncBN', 'MMSyncBN'):
        settings.insert(0, 'norm_cfg=norm_cfg')
    if useful and part.get('norm_cfg') is None and name != 'backbone':
        wrong.append(f'the {name} has no norm')
    return ', '.join(settings), ' and '.join(wrong)


def _kind(part: dict) -> str | None:
    norm = part.get('norm_cfg')
    return norm.get('type') if isinstance(norm, dict) else None


def _options(kind: Any) -> set[str]:
    """Names of a module's constructor arguments, base classes included."""
    with MODELS.switch_scope_and_registry(None) as models:
        module = models.get(kind) if isinstance(kind, str) else kind
    names: set[str] = set()
    for base in getattr(module, '__mro__', ()):
        if '__init__' in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)
    return names


def _nested(path: tuple[str, ...], settings: str) -> str:
    text = f'{path[-1]}=dict({settings})'
    for key in reversed(path[:-1]):
        text = f'{key}=dict({text})'
    return text
