"""The audit of one config: what the structure says, against what numbers prove."""

import time

from smd_mmdet.audit import audit
from smd_mmdet.config.load import load_config

__all__ = ['audit_one', 'unfreeze']

# Backbones of these types fix the statistics of their norms unless told otherwise.
FIXING = ('ResNe', 'Res2Net', 'RegNet', 'DetectoRS_', 'TridentResNet', 'Darknet')


def audit_one(name: str, mode: str) -> dict:
    """Audit a config.

    Args:
        name: Path of the config in the zoo.
        mode: 'trained' or 'shipped'.

    Returns:
        Plain data: the ``summary`` of the audit, the CPU ``seconds`` it took, and what
        :func:`_compare` tells; or only ``same``, where the config freezes nothing, so
        that 'trained' would be the same as 'shipped'.
    """
    start = time.process_time()
    config = load_config(f'mmdet::{name}')
    if mode == 'trained' and not unfreeze(config.model):
        return dict(same=True)
    found = audit(config, verify=True)
    return dict(
        summary=found['summary'],
        seconds=time.process_time() - start,
        **_compare(found['parameters']),
    )


def unfreeze(node) -> bool:
    """Put every norm in train mode and train every stage.

    Args:
        node: A model's config, or a part of it; changed in place.

    Returns:
        Whether anything was frozen.
    """
    changed = _unfreeze_module(node) if isinstance(node, dict) else False
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            changed |= unfreeze(child)
    return changed


def _unfreeze_module(settings: dict) -> bool:
    """The same for the settings of one module, without those of its parts."""
    changed = False
    if str(settings.get('type')).startswith(FIXING) or 'norm_eval' in settings:
        changed |= bool(settings.get('norm_eval', True))
        settings['norm_eval'] = False
    # EfficientNet counts its stages from the stem: 0 freezes none.
    free = 0 if settings.get('type') == 'EfficientNet' else -1
    if settings.get('frozen_stages', free) > free:
        changed = True
        settings['frozen_stages'] = free
    norm = settings.get('norm_cfg')
    if isinstance(norm, dict) and norm.get('requires_grad') is False:
        changed = norm['requires_grad'] = True
    return changed


def _compare(parameters: list[dict]) -> dict:
    """Structure against proof, over everything that the proof decides.

    Returns:
        Plain data: how many tensors are invariant by ``both`` or by ``neither``; those
        invariant by ``only_structure`` or ``only_proof``; how many are ``undecided``,
        with the first of their names; and whether any proof was in ``single``
        precision.
    """
    proved = [p for p in parameters if p['proof']]
    decided = [p for p in proved if p['proof']['verdict'] is not None]
    undecided = [p['name'] for p in proved if p['proof']['verdict'] is None]
    pairs = [(p['invariant'], p['proof']['verdict']) for p in decided]
    wrong = [p for p in decided if p['invariant'] != p['proof']['verdict']]
    return dict(
        both=pairs.count((True, True)),
        neither=pairs.count((False, False)),
        only_structure=[_describe(p) for p in wrong if p['invariant']],
        only_proof=[_describe(p) for p in wrong if not p['invariant']],
        undecided=len(undecided),
        undecided_names=undecided[:20],
        single=any('float32' in p['proof']['reason'] for p in decided),
    )


def _describe(parameter: dict) -> dict:
    return {key: parameter[key] for key in ('name', 'reason', 'proof')}
