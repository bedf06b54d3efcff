"""The table of symptoms, against the runs it speaks of."""

import re
from pathlib import Path

import numpy as np
import pytest
from runs import simulated

from smd_mmdet import checks
from smd_mmdet.report.run import run_of
from smd_mmdet.report.symptoms import NOT_MEASURED, SYMPTOMS, shown_by

DOCS = Path(__file__).parents[2] / 'docs'
REPRODUCTION = (DOCS / 'reproduction.md').read_text('utf-8').replace('−', '-')
FIGURE = re.compile(r'([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)')


def test_every_difference_was_measured():
    """Each is in the reproduction, which its own command writes."""
    found = [
        f for row in SYMPTOMS for f in FIGURE.findall(row.effect.replace('−', '-'))
    ]
    assert len(found) == 8
    for mean, low, high in found:
        in_short = f' {mean} ({low} to {high})'
        in_tables = f'| {mean} | {low} to {high} |'
        assert in_short in REPRODUCTION or in_tables in REPRODUCTION


# Of a figure: the beginning of the line of the reproduction that has it, and its score.
_START = '| slow equilibrium, start at it − slow equilibrium, plain | {} | 600 |'


@pytest.mark.parametrize(
    ('figure', 'begins', 'score'),
    [
        ('box AP of Mask R-CNN +3.0', '| Mask R-CNN, BN |', 'box AP +3.0 '),
        ('and +0.7', '| Mask R-CNN, GN |', 'box AP +0.7 '),
        ('of RetinaNet +5.4', '| RetinaNet, BN |', 'box AP +5.4 '),
        ('and +4.3', '| RetinaNet, GN |', 'box AP +4.3 '),
        ('ResNet-18 +4.4', '| ResNet-18 |', 'top-1 accuracy +4.4 '),
        ('box AP +0.8', _START.format('box AP'), '| +0.8 |'),
        ('mask AP +1.3', _START.format('mask AP'), '| +1.3 |'),
    ],
)
def test_a_difference_is_that_of_the_runs_named(figure, begins, score):
    assert any(figure in row.effect for row in SYMPTOMS)
    lines = REPRODUCTION.splitlines()
    begins = begins.replace('−', '-')
    assert any(line.startswith(begins) and score in line for line in lines)


def test_no_conclusion_failed_in_the_runs():
    told = re.search(r'fails in (\d+) of [\d,]+ layer stages of all runs', REPRODUCTION)
    assert told and told[1] == '0'
    by_model = re.findall(r'\| (\d+) of \d+ \|$', REPRODUCTION, re.M)
    assert by_model[:5] == ['0'] * 5


def test_the_documents_have_the_table():
    whole = (DOCS / 'symptoms.md').read_text('utf-8')
    for row in SYMPTOMS:
        assert f'| {row.seen} | {row.means} | {row.change} | {row.effect} |' in whole
    assert any(row.effect == NOT_MEASURED for row in SYMPTOMS)


def test_every_state_that_is_not_well_is_a_symptom():
    states = {
        getattr(checks, name)
        for name in checks.__all__
        if name.isupper() and isinstance(getattr(checks, name), str)
    }
    states -= {'holds', 'fails', 'not applicable', checks.IN_EQUILIBRIUM}
    # There is nothing to change in them, and the advice says what they are.
    states -= {checks.NO_THEORY, checks.NO_RATE}
    # What a controller holds is where it is wanted; else a check of its own tells.
    states -= {checks.CONTROLLED, checks.WANTED}
    for state in states:
        stage = checks.StageReport(1, 1, 9, 0.1, 1e-4, 0.9, state=state)
        fast = checks.StageReport(1, 1, 9, 0.1, 1e-4, 0.9, 1.5, state=state)
        assert any(r.shows and (r.shows(stage) or r.shows(fast)) for r in SYMPTOMS), (
            state
        )


def test_a_run_shows_its_symptoms():
    lr = np.repeat([0.05, 0.005], [900, 540])
    shown = shown_by(run_of(simulated(lr=lr, norm=None, noise=0.02), 'drop').report)
    seen = [row.seen for row, here in zip(SYMPTOMS, shown, strict=True) if here]
    assert seen[0].startswith('Blue after a drop')
    assert not any(text.startswith(('Blue from the start', 'Red')) for text in seen)
