"""What an audit finds, and the same as plain data for JSON."""

import math
from dataclasses import dataclass
from typing import Any

from smd_mmdet.invariance import ScaleProof

__all__ = ['Audit', 'AuditedParameter']


@dataclass(frozen=True)
class AuditedParameter:
    """What is known about one parameter of a model.

    Args:
        name: Dotted name of the parameter.
        invariant: Whether the model's structure makes it scale-invariant.
        norm: Name of the module that normalizes it; None if there is none.
        reason: One sentence that says why.
        size: How many numbers it holds.
        dimensions: How many dimensions it has.
        trainable: Whether it is trained.
        proof: The answer of numbers; None if they were not asked.
    """

    name: str
    invariant: bool
    norm: str | None
    reason: str
    size: int
    dimensions: int
    trainable: bool
    proof: ScaleProof | None

    @property
    def is_layer(self) -> bool:
        """Whether this is a weight to be trained, rather than a bias or a norm's."""
        return self.trainable and self.dimensions > 1

    @property
    def is_contradicted(self) -> bool:
        """Whether numbers say the opposite of what the structure says."""
        verdict = None if self.proof is None else self.proof.verdict
        return verdict is not None and verdict != self.invariant


@dataclass(frozen=True)
class Audit:
    """What was found about the model of a config.

    Args:
        config: Name of the config.
        parameters: All parameters, in the order of the model.
        advice: Lines of text for a config without a scale-invariant weight.
        verified: Whether the answers were verified by numbers.
    """

    config: str
    parameters: list[AuditedParameter]
    advice: list[str]
    verified: bool

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain data, as :func:`smd_mmdet.audit.audit` returns it."""
        return dict(
            config=self.config,
            parameters=[_plain(p, self.verified) for p in self.parameters],
            summary=_summary(self.parameters),
            advice=self.advice,
            contradictions=[p.name for p in self.parameters if p.is_contradicted],
        )


def _plain(parameter: AuditedParameter, with_proof: bool) -> dict[str, Any]:
    plain = dict(vars(parameter))
    proof = plain.pop('proof')
    if with_proof:
        plain['proof'] = None if proof is None else _plain_proof(proof)
    return plain


def _plain_proof(proof: ScaleProof) -> dict[str, Any]:
    return dict(
        verdict=proof.verdict,
        cosine=_finite(proof.cosine),
        epsilon_cosine=_finite(proof.epsilon_cosine),
        loss_change=_finite(proof.loss_change),
        joint_change=_finite(proof.joint_change),
        reason=proof.reason,
    )


def _finite(value: float | None) -> float | None:
    """The number; None for NaN, such as the cosine with no gradient: JSON has none."""
    return value if value is not None and math.isfinite(value) else None


def _summary(parameters: list[AuditedParameter]) -> dict[str, float]:
    """Counts of parameters, of single numbers (called weights) and of layers."""
    invariant = [p for p in parameters if p.invariant]
    layers = [p for p in parameters if p.is_layer]
    weights, invariant_weights = (
        sum(p.size for p in x) for x in (parameters, invariant)
    )
    invariant_layers = sum(p.invariant for p in layers)
    return dict(
        parameters=len(parameters),
        invariant_parameters=len(invariant),
        weights=weights,
        trainable_weights=sum(p.size for p in parameters if p.trainable),
        invariant_weights=invariant_weights,
        share_of_weights=_share(invariant_weights, weights),
        layers=len(layers),
        invariant_layers=invariant_layers,
        share_of_layers=_share(invariant_layers, len(layers)),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
