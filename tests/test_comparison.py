"""docs/comparison.md and docs/development.md: every cell on others names its source."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r'\(([A-Z]\d(?:, [A-Z]\d)*)\)')


def rows(text, heading):
    """The cells of the first table below a heading, without its head."""
    lines = text.partition(f'{heading}\n')[2].splitlines()
    end = next((i for i, line in enumerate(lines) if line.startswith('#')), len(lines))
    table = [line for line in lines[:end] if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table[2:]]


def unfounded(page):
    """Cells without a source, sources that are not listed, and listed ones not used."""
    text, _, listed = page.partition('## Sources')
    known = set(re.findall(r'^\| ([A-Z]\d) \|', listed, re.MULTILINE))
    named = {name for together in NAMED.findall(text) for name in together.split(', ')}
    wrong = [f'{name}: not listed' for name in named - known]
    wrong += [f'{name}: not used' for name in known - named]
    for row in rows(text, '## What each does'):
        if row[0].startswith('last commit'):
            continue  # the list of sources has the commits
        for cell in row[2:]:
            if cell != '–' and not NAMED.search(cell):
                wrong.append(f'{row[0]}: {cell}')
    return wrong


@pytest.fixture(scope='module')
def page():
    return (ROOT / 'docs/comparison.md').read_text('utf-8')


def test_every_cell_on_other_tools_names_its_source(page):
    assert len(rows(page, '## What each does')) > 10
    assert unfounded(page) == []
    development = (ROOT / 'docs/development.md').read_text('utf-8')
    assert unfounded(development) == []


@pytest.mark.parametrize(
    ('old', 'new', 'fault'),
    [
        (
            'no; histograms (W1, T1)',
            'no; histograms',
            'angular update: no; histograms',
        ),
        ('no (R4)', 'no (R9)', 'R9: not listed'),
        ('no (R4)', 'no (R1)', 'R4: not used'),
    ],
)
def test_a_cell_without_a_source_is_seen(page, old, new, fault):
    assert old in page
    assert fault in unfounded(page.replace(old, new, 1))


def test_the_costs_are_those_that_the_benchmark_prints(page, monkeypatch):
    pytest.importorskip('tensorboard', reason='tensorboard is missing')
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'benchmarks'), *sys.path])
    from peer import USUALLY

    table = rows(page, '## What each costs')
    assert [row[0] for row in table if row[0] in USUALLY] == list(USUALLY)
    for row in table:
        every = USUALLY.get(row[0], 1)
        assert row[4] == str(every or "the user's choice")
    times = {row[0]: float(row[1].replace(',', '')) for row in table}
    ours = times['smd_mmdet, windows included']
    for row in table:
        assert float(row[3]) == pytest.approx(times[row[0]] / ours, rel=0.03)
