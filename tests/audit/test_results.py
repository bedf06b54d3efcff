"""An audit as plain data: what is counted, and what JSON can hold."""

import json
import math

import pytest

from smd_mmdet.audit.results import Audit, AuditedParameter
from smd_mmdet.invariance import ScaleProof


def proof(name, verdict):
    return ScaleProof(name, verdict, math.nan, None, 1e-9, 2e-3, 1.0, 'because')


def parameter(name, invariant, size, dimensions=4, trainable=True, verdict=None):
    norm = 'bn' if invariant else None
    shape = size, dimensions, trainable
    return AuditedParameter(name, invariant, norm, 'so', *shape, proof(name, verdict))


PARAMETERS = [
    parameter('conv', True, 60, verdict=True),
    parameter('frozen', False, 20, trainable=False),
    parameter('bias', False, 10, dimensions=1),
    parameter('fc', False, 10, dimensions=2, verdict=True),
]


def test_weights_and_layers_are_counted():
    summary = Audit('c.py', PARAMETERS, [], verified=False).to_dict()['summary']
    assert summary == dict(
        parameters=4,
        invariant_parameters=1,
        weights=100,
        trainable_weights=80,
        invariant_weights=60,
        share_of_weights=0.6,
        layers=2,
        invariant_layers=1,
        share_of_layers=0.5,
    )


def test_a_model_without_parameters_has_no_shares():
    summary = Audit('c.py', [], ['add a norm'], verified=False).to_dict()['summary']
    assert summary['share_of_weights'] == summary['share_of_layers'] == 0


def test_what_numbers_contradict_is_named():
    assert Audit('c.py', PARAMETERS, [], verified=True).to_dict()['contradictions'] == [
        'fc'
    ]


def test_the_proof_is_told_only_where_it_was_asked_for():
    rows = Audit('c.py', PARAMETERS[:1], [], verified=False).to_dict()['parameters']
    assert rows == [
        dict(
            name='conv',
            invariant=True,
            norm='bn',
            reason='so',
            size=60,
            dimensions=4,
            trainable=True,
        )
    ]
    whole = Audit('c.py', PARAMETERS[:1], [], verified=True).to_dict()
    assert list(whole['parameters'][0])[-1] == 'proof'
    # JSON has no NaN: the cosine of a weight without a gradient is null.
    assert json.loads(json.dumps(whole, allow_nan=False))['parameters'][0]['proof'] == {
        'verdict': True,
        'cosine': None,
        'epsilon_cosine': pytest.approx(2e-3),
        'loss_change': None,
        'joint_change': pytest.approx(1e-9),
        'reason': 'because',
    }
