"""What `smd audit` knows: which weights of a config are scale-invariant, and why."""

import contextlib
import copy
import inspect
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from smd_mmdet.invariance import (
    ScaleInvariance,
    ScaleProof,
    find_scale_invariant,
    kept_rng,
    verify_scale_invariance,
)

from .compat import allow_mmpretrain
from .launch import load_config
from .sample_inputs import model_loss, sample_inputs, sample_sizes

__all__ = ['audit', 'build_untrained']

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


def audit(config: str | Config, verify: bool = False) -> dict[str, Any]:
    """Tell for every parameter of a config whether it is scale-invariant, and why.

    The model is built with random weights: nothing is downloaded or loaded.

    Args:
        config: Path of a config, ``package::folder/name.py``, or a config.
        verify: Prove or refute the answer by numbers, for every trainable tensor of
            two dimensions or more.

    Returns:
        Plain data: ``config``; ``parameters``, a list of dicts with ``name``,
        ``invariant``, ``norm``, ``reason``, ``size`` (its count of numbers) and
        ``trainable``, and with ``verify`` also ``proof`` (``verdict``, ``cosine``,
        ``epsilon_cosine``, ``loss_change``, ``joint_change``, ``reason``; None
        where nothing was proved); ``summary``, counts and shares; ``advice``, lines
        of text, empty if a weight is invariant; ``contradictions``,
        names for which structure and proof differ (empty without ``verify``).

    Raises:
        ValueError: If the config cannot be read, or its model not be built or run;
            one line.
    """
    loaded = load_config(config) if isinstance(config, str) else config
    name = config if isinstance(config, str) else (config.filename or 'the config')
    with kept_rng():
        model = build_untrained(loaded)
        try:
            entries = find_scale_invariant(model)
        except RuntimeError as error:
            raise ValueError(f'{name}: {_line(error)}') from error
        proofs = _prove(model, entries, name) if verify else {}
    parameters = _parameters(model, entries, proofs, verify)
    return dict(
        config=str(name),
        parameters=parameters,
        summary=_summary(parameters),
        advice=_advice(loaded, parameters),
        contradictions=[p['name'] for p in parameters if _contradicted(p)],
    )


def _line(error: BaseException) -> str:
    return ' '.join(str(error).split())[:300]


# ------------------------------------------------------------------------- the model


def build_untrained(config: Config) -> nn.Module:
    """Build a config's model with random weights, without any download.

    Args:
        config: A whole config; it is not changed.

    Returns:
        The initialized model, in train mode as a training loop would set it.

    Raises:
        ValueError: If it has no model, or the model cannot be built; one line.
    """
    settings = config.get('model')
    if not isinstance(settings, dict) or 'type' not in settings:
        raise ValueError('the config has no model')
    settings = copy.deepcopy(settings)
    if (preprocessor := config.get('data_preprocessor')) is not None:
        # As the Runner does.
        settings.setdefault('data_preprocessor', copy.deepcopy(preprocessor))
    _forget_checkpoints(settings)
    allow_mmpretrain(config)
    with _quiet():
        scope = config.get('default_scope') or 'mmdet'
        init_default_scope(scope)
        torch.manual_seed(0)
        try:
            model = MODELS.build(settings)
            if hasattr(model, 'init_weights'):
                model.init_weights()
        except Exception as error:  # whatever a foreign model may raise
            raise ValueError(f'the model cannot be built: {_line(error)}') from error
    model.train()
    return model


def _forget_checkpoints(node: Any) -> None:
    """Take out every reference to trained weights."""
    if isinstance(node, dict):
        if node.get('type') == 'Pretrained':
            # Within a list of initializations one that does nothing must remain.
            node.clear()
            node.update(type='Constant', layer=[], val=0)
            return
        for key in ('pretrained', 'teacher_ckpt'):
            if node.get(key) is not None:
                node[key] = False if node[key] is True else None
        initialization = node.get('init_cfg')
        if (
            isinstance(initialization, dict)
            and initialization.get('type') == 'Pretrained'
        ):
            node['init_cfg'] = None
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            _forget_checkpoints(child)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what building a model prints away from the standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)


# ------------------------------------------------------------------------- the proof


def _prove(
    model: nn.Module, entries: list[ScaleInvariance], name: str
) -> dict[str, ScaleProof]:
    parameters = dict(model.named_parameters())
    names = [
        entry.name
        for entry in entries
        if parameters[entry.name].requires_grad
        and (entry.invariant or parameters[entry.name].dim() > 1)
    ]
    found = {entry.name for entry in entries if entry.invariant}
    error = None
    for size in sample_sizes(model):
        try:
            proofs = _prove_on(model, names, size, batch_size=2)
            open_ones = [n for n in names if n in found and proofs[n].verdict is None]
            # A norm over one pixel of two images gives ±1 and no gradient.
            return proofs | _prove_on(model, open_ones, size, batch_size=4)
        except Exception as failure:  # whatever a foreign model may raise
            error = error or failure
    raise ValueError(f'{name}: the proof cannot run: {_line(error)}') from error


def _prove_on(
    model: nn.Module, names: list[str], size: int, batch_size: int
) -> dict[str, ScaleProof]:
    data = sample_inputs(model, size, batch_size)

    def loss(replica: nn.Module) -> Tensor:
        return model_loss(replica, data, economical=True)

    return verify_scale_invariance(model, loss, names, alone=False)


def _contradicted(parameter: dict) -> bool:
    proof = parameter.get('proof')
    if proof is None or proof['verdict'] is None:
        return False
    return proof['verdict'] != parameter['invariant']


# ------------------------------------------------------------------------- the data


def _parameters(model, entries, proofs, verify: bool) -> list[dict]:
    tensors = dict(model.named_parameters())
    rows = []
    for entry in entries:
        tensor = tensors[entry.name]
        row = dict(
            name=entry.name,
            invariant=entry.invariant,
            norm=entry.norm,
            reason=entry.reason,
            size=tensor.numel(),
            dimensions=tensor.dim(),
            trainable=tensor.requires_grad,
        )
        if verify:
            row['proof'] = _figures(proofs.get(entry.name))
        rows.append(row)
    return rows


def _figures(proof: ScaleProof | None) -> dict | None:
    if proof is None:
        return None
    # JSON knows no NaN: the cosine of a weight without gradient is null.
    return dict(
        verdict=proof.verdict,
        cosine=_number(proof.cosine),
        epsilon_cosine=_number(proof.epsilon_cosine),
        loss_change=_number(proof.loss_change),
        joint_change=_number(proof.joint_change),
        reason=proof.reason,
    )


def _number(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float('inf') else None


def _summary(parameters: list[dict]) -> dict:
    """Counts; a layer is a trainable tensor of two dimensions or more."""
    invariant = [p for p in parameters if p['invariant']]
    layers = [p for p in parameters if p['trainable'] and p['dimensions'] > 1]
    size = sum(p['size'] for p in parameters)
    trainable = sum(p['size'] for p in parameters if p['trainable'])
    invariant_size = sum(p['size'] for p in invariant)
    invariant_layers = sum(p['invariant'] for p in layers)
    return dict(
        parameters=len(parameters),
        invariant_parameters=len(invariant),
        weights=size,
        trainable_weights=trainable,
        invariant_weights=invariant_size,
        share_of_weights=invariant_size / size if size else 0.0,
        layers=len(layers),
        invariant_layers=invariant_layers,
        share_of_layers=invariant_layers / len(layers) if layers else 0.0,
    )


# ------------------------------------------------------------------------- the advice


def _advice(config: Config, parameters: list[dict]) -> list[str]:
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
