"""Every rule against the truth, in connections that are made by hand."""

import itertools

import pytest
import torch
from connections import BEYOND_STRUCTURE, CASES
from invariants import found, squares
from models import images
from torch import nn

from smd_mmdet.invariance import verify_scale_invariance
from smd_mmdet.invariance.operations import (
    CUSTOM_PRODUCTS,
    HOMOGENEOUS,
    NORMS_OF_GROUPS,
    PRODUCTS,
    SCALED_PRODUCTS,
    SPREADS,
    SUMS,
    VIEWS,
)
from smd_mmdet.invariance.owners import Owners
from smd_mmdet.invariance.rules import RULES
from smd_mmdet.invariance.walk import Walk


@pytest.mark.parametrize('case', CASES)
def test_structure_and_proof_agree_with_the_truth(case):
    build, expected = CASES[case]
    torch.manual_seed(0)
    model = build()
    x = images(size=8)
    assert found(model, x) == expected
    truth = BEYOND_STRUCTURE.get(case, expected)
    names = [n for n, p in model.named_parameters() if p.dim() > 1]
    proofs = verify_scale_invariance(model, squares(x), names)
    for name, proof in proofs.items():
        if proof.verdict is None:
            assert 'no gradient' in proof.reason, proof
        else:
            assert proof.verdict == (name in truth), proof


def test_no_operation_has_two_rules():
    sets = [
        *(VIEWS, HOMOGENEOUS, SPREADS, PRODUCTS, SCALED_PRODUCTS, SUMS),
        *(NORMS_OF_GROUPS, CUSTOM_PRODUCTS.keys()),
    ]
    for one, other in itertools.combinations(sets, 2):
        assert not one & other
    assert all(names <= RULES.keys() for names in sets)


def test_a_deep_graph_is_walked_once():
    """Deeper than Python's stack, and with a number of paths that no walk would end."""
    weight = nn.Parameter(torch.randn(4, 4))
    value = weight
    for _ in range(2000):
        value = value + value
    walk = Walk([weight], Owners(nn.ParameterList([weight])), trained=[weight])
    walk.run([value])
    assert walk.degree(value, weight) == 1
    assert walk.findings.failed[id(weight)].startswith('the output scales with it')
