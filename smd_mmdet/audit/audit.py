"""What `smd audit` knows: which weights of a config are scale-invariant, and why."""

from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from smd_mmdet._text import one_line
from smd_mmdet.config.load import load_config
from smd_mmdet.invariance import (
    ScaleInvariance,
    ScaleProof,
    find_scale_invariant,
    kept_rng,
    verify_scale_invariance,
)
from smd_mmdet.invariance.sample_inputs import model_loss, sample_inputs, sample_sizes

from .advice import advice
from .untrained import build_untrained

__all__ = ['audit', 'build_untrained']


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
            raise ValueError(f'{name}: {one_line(error, 300)}') from error
        proofs = _prove(model, entries, name) if verify else {}
    parameters = _parameters(model, entries, proofs, verify)
    return dict(
        config=str(name),
        parameters=parameters,
        summary=_summary(parameters),
        advice=advice(loaded, parameters),
        contradictions=[p['name'] for p in parameters if _contradicted(p)],
    )


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
    raise ValueError(f'{name}: the proof cannot run: {one_line(error, 300)}') from error


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
