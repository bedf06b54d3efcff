"""The audit of a config: which weights are scale-invariant, and why."""

import copy
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
from .results import Audit, AuditedParameter
from .untrained import build_untrained

__all__ = ['audit']


def audit(
    config: str | Config,
    verify: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Tell for every parameter of a config whether it is scale-invariant, and why.

    The model is built with random weights: nothing is downloaded or loaded.

    Args:
        config: Path of a config, ``package::folder/name.py``, or a config.
        verify: Whether to prove or refute the answer by numbers, for every trainable
            tensor of two dimensions or more.
        options: Dotted names of settings and the values to give them first, as
            ``--cfg-options`` of the training takes them.

    Returns:
        Plain data: ``config``; ``parameters``, a list of dicts with ``name``,
        ``invariant``, ``norm``, ``reason``, ``size`` (how many numbers it holds),
        ``dimensions`` and ``trainable``, and with ``verify`` also ``proof``
        (``verdict``, ``cosine``, ``epsilon_cosine``, ``loss_change``,
        ``joint_change``, ``reason``; None where nothing was proved); ``summary``,
        counts and shares; ``advice``, lines of text, empty if a weight is invariant;
        ``contradictions``, names for which structure and proof differ (empty without
        ``verify``).

    Raises:
        ValueError: If the config cannot be read, or its model not be built or run;
            the message is one line.

    Example:
        >>> from mmengine.config import Config
        >>> backbone = dict(type='mmdet.ResNet', depth=18, norm_eval=False)
        >>> found = audit(Config(dict(model=backbone)))
        >>> found['parameters'][0]['name'], found['parameters'][0]['norm']
        ('conv1.weight', 'bn1')
        >>> found['summary']['layers'], found['summary']['invariant_layers']
        (20, 20)
    """
    if isinstance(config, str):
        loaded = load_config(config, options)
    else:
        loaded = copy.deepcopy(config)
        loaded.merge_from_dict(options or {})
    name = config if isinstance(config, str) else (config.filename or 'the config')
    with kept_rng():
        model = build_untrained(loaded)
        try:
            entries = find_scale_invariant(model)
        except RuntimeError as error:
            raise ValueError(f'{name}: {one_line(error, 300)}') from error
        proofs = _prove(model, entries, str(name)) if verify else {}
    parameters = _parameters(model, entries, proofs)
    some = any(parameter.invariant for parameter in parameters)
    lines = [] if some else advice(loaded['model'])
    return Audit(str(name), parameters, lines, verify).to_dict()


def _parameters(
    model: nn.Module, entries: list[ScaleInvariance], proofs: dict[str, ScaleProof]
) -> list[AuditedParameter]:
    tensors = dict(model.named_parameters())
    return [
        AuditedParameter(
            name=entry.name,
            invariant=entry.invariant,
            norm=entry.norm,
            reason=entry.reason,
            size=tensors[entry.name].numel(),
            dimensions=tensors[entry.name].dim(),
            trainable=tensors[entry.name].requires_grad,
            proof=proofs.get(entry.name),
        )
        for entry in entries
    ]


def _prove(
    model: nn.Module, entries: list[ScaleInvariance], name: str
) -> dict[str, ScaleProof]:
    """Verify by numbers, on images of the first size that the model takes."""
    names = _to_be_proved(model, entries)
    invariant = {entry.name for entry in entries if entry.invariant}
    first_error = None
    for size in sample_sizes(model):
        try:
            proofs = _prove_on(model, names, size, batch_size=2)
            # Over one pixel of two images a batch norm gives ±1 whatever comes in: no
            # gradient flows, and nothing is decided. With four images it does.
            undecided = [n for n in names if n in invariant and not _decided(proofs[n])]
            return proofs | _prove_on(model, undecided, size, batch_size=4)
        except Exception as error:  # a foreign model may raise anything
            first_error = first_error or error
    raise ValueError(
        f'{name}: the proof cannot run: {one_line(first_error, 300)}'
    ) from first_error


def _to_be_proved(model: nn.Module, entries: list[ScaleInvariance]) -> list[str]:
    """Names of what is trained: all found invariant, and every other weight."""
    tensors = dict(model.named_parameters())
    return [
        entry.name
        for entry in entries
        if tensors[entry.name].requires_grad
        and (entry.invariant or tensors[entry.name].dim() > 1)
    ]


def _decided(proof: ScaleProof) -> bool:
    return proof.verdict is not None


def _prove_on(
    model: nn.Module, names: list[str], size: int, batch_size: int
) -> dict[str, ScaleProof]:
    """Verify by numbers on random images of a height and width in pixels."""
    data = sample_inputs(model, size, batch_size)

    def loss(replica: nn.Module) -> Tensor:
        return model_loss(replica, data, economical=True)

    return verify_scale_invariance(model, loss, names, alone=False)
