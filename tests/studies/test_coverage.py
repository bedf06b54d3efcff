"""The pages of optimizers and of recipes."""

import re
from collections import Counter
from pathlib import Path

import pytest
from mmengine.config import Config

from smd_mmdet.recipes import known_recipes
from smd_mmdet.theory import THEORIES
from studies import optimizers, recipes

DOCS = Path(__file__).parents[2] / 'docs'
SGD = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
TRAINED = [
    dict(optimizer=SGD),
    dict(optimizer=SGD, clip_grad=dict(max_norm=35)),
    dict(optimizer=SGD, clip_grad=dict(type='value', clip_value=1)),
    dict(optimizer=SGD | dict(nesterov=True)),
    # Clipping changes nothing under AdamW.
    dict(optimizer=dict(type='AdamW', lr=1e-4), clip_grad=dict(max_norm=0.1)),
    dict(optimizer=dict(type='RMSprop', lr=1e-4)),
]


def test_configs_are_counted_by_what_holds_for_them(monkeypatch):
    configs = [('name', Config(dict(optim_wrapper=wrapper))) for wrapper in TRAINED]
    monkeypatch.setattr(optimizers, 'installed_configs', lambda: iter(configs))
    kinds = [('sgd', ''), ('sgd', 'norm'), ('sgd', 'value'), ('nesterov', '')]
    kinds += [('adamw', ''), ('none', '')]
    found = optimizers.count()
    assert found == Counter(kinds)
    page = optimizers.page(found)
    assert 'SGD, clipped by value | not derived' in page
    assert page.count('1 (16.7%)') == 6


def _counts(page: str) -> dict[str, int]:
    rows = re.findall(r'^\| ([^|]+) \|.*\| (\d+) \(', page, re.MULTILINE)
    return {name.strip(): int(number) for name, number in rows}


def test_the_page_counts_every_config_of_the_zoo():
    counts = _counts((DOCS / 'optimizers.md').read_text())
    # Counted by hand, by the text of the configs.
    assert sum(counts.values()) == 806
    assert counts['SGD'] + counts['SGD, clipped by norm'] == 649
    assert counts['SGD, clipped by norm'] == 98
    assert counts['SGD with Nesterov momentum'] == 15
    assert (counts['AdamW'], counts['LAMB'], counts['Adam with L2 decay']) == (
        133,
        5,
        4,
    )


def test_the_pages_are_those_that_the_studies_write():
    mmdet = pytest.importorskip('mmdet', reason='mmdet is missing')
    if mmdet.__version__ != '3.3.0':
        pytest.skip(f'the pages are of MMDetection 3.3.0, not {mmdet.__version__}')
    text = (DOCS / 'optimizers.md').read_text()
    titles = {law.title: name for name, law in THEORIES.items()} | {'any other': 'none'}
    kept: Counter[tuple[str, str]] = Counter()
    for name, number in _counts(text).items():
        title, _, clipped = name.partition(', clipped by ')
        kept[titles[title], clipped] = number
    assert optimizers.page(kept) == text
    assert recipes.page(list(known_recipes())) == (DOCS / 'recipes.md').read_text()


@pytest.mark.parametrize('name', THEORIES)
def test_a_row_tells_what_the_law_has(name):
    law = THEORIES[name]
    row = optimizers._row(name, '')
    assert len(row) == len(optimizers.COLUMNS) - 1
    assert ('forecast' in row[-1]) is law.norm_law
    assert (
        (row[-2] == f'k^(−1/{1 / law.norm_power():g})')
        if law.norm_law
        else (row[-2] == 'none')
    )
