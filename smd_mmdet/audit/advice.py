"""Config lines that would give a model scale-invariant weights, if it has none."""

import inspect
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS

from smd_mmdet.config.types import type_name

__all__ = ['advice']

NORM = "dict(type='SyncBN', requires_grad=True)"
# Norms that use statistics of the images at hand, as many as a detector is trained on.
GOOD_NORMS = ('GN', 'GroupNorm', 'SyncBN', 'MMSyncBN', 'SyncBatchNorm')
# Parts of a detector that may take a norm_cfg, as paths in the config's model.
PLACES = (
    ('backbone',),
    ('neck',),
    ('bbox_head',),
    ('mask_head',),
    ('roi_head', 'bbox_head'),
    ('roi_head', 'mask_head'),
)
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


@dataclass(frozen=True)
class _Part:
    """A part of a detector, and what to change in it."""

    path: tuple[str, ...]
    settings: list[str]  # new ones, as Python text
    faults: list[str]  # what keeps its weights from being scale-invariant

    def as_text(self) -> str:
        """The settings within the dicts of the path: neck=dict(norm_cfg=norm_cfg)."""
        text = ', '.join(self.settings)
        for key in reversed(self.path):
            text = f'{key}=dict({text})'
        return text


def advice(model: dict) -> list[str]:
    """Config lines that would give a model its first scale-invariant weights.

    Args:
        model: ``model`` of a config, none of whose weights is scale-invariant.

    Returns:
        Lines of text: why there is none, the lines to add to the config, and what
        these cost.
    """
    parts = _parts(model)
    if not parts:
        return [
            'No weight is scale-invariant: none is followed by a norm that uses the '
            'statistics of batch or sample, and no part of the model takes a norm_cfg.'
        ]
    faults = [' and '.join(part.faults) for part in parts if part.faults]
    why = '; '.join(dict.fromkeys(faults)) or 'no norm follows any convolution'
    return [
        f'No weight is scale-invariant: {why}. To have some, add to the config:',
        f'norm_cfg = {NORM}',
        'model = dict(',
        *(f'    {part.as_text()},' for part in parts),
        ')',
        *COST,
    ]


def _parts(model: dict) -> list[_Part]:
    """Those parts of a detector in which something can be changed."""
    # A semi-supervised model holds the detector it trains.
    prefix = ('detector',) if isinstance(model.get('detector'), dict) else ()
    found = []
    for place in PLACES:
        node: Any = model
        for key in (path := prefix + place):
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and (part := _part(path, node)).settings:
            found.append(part)
    return found


def _part(path: tuple[str, ...], config: dict) -> _Part:
    name, kind = path[-1], config.get('type')
    options = _options(kind)
    part = _Part(path, [], [])
    if config.get('norm_eval', 'norm_eval' in options):
        part.settings.append('norm_eval=False')
        part.faults.append(f'norm_eval=True fixes the statistics of the {name}')
    # EfficientNet counts its stages from the stem: 0 freezes none.
    free = 0 if type_name(config) == 'EfficientNet' else -1
    frozen = config.get('frozen_stages', free)
    if isinstance(frozen, int) and frozen > free:
        part.settings.append(f'frozen_stages={free}')
        part.faults.append(
            f'frozen_stages={frozen} keeps its first stages from training'
        )
    if 'norm_cfg' in options and _has_convolutions(config):
        if _norm(config) not in GOOD_NORMS:
            part.settings.insert(0, 'norm_cfg=norm_cfg')
        if config.get('norm_cfg') is None and name != 'backbone':
            part.faults.append(f'the {name} has no norm')
    return part


def _has_convolutions(config: dict) -> bool:
    """Whether a norm_cfg does anything: heads of linear layers take one in vain."""
    linear = type_name(config) == 'Shared2FCBBoxHead'
    return not linear and config.get('num_shared_convs', 1) != 0


def _norm(config: dict) -> str | None:
    norm = config.get('norm_cfg')
    return type_name(norm) if isinstance(norm, dict) else None


def _options(kind: Any) -> set[str]:
    """Names of a module's constructor arguments, base classes included."""
    with MODELS.switch_scope_and_registry(None) as models:
        module = models.get(kind) if isinstance(kind, str) else kind
    names: set[str] = set()
    for base in getattr(module, '__mro__', ()):
        if '__init__' in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)
    return names
