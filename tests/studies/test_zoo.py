"""The audited zoo: its command line, and its page of kept results."""

import json
import sys

import pytest
from pages import rows

from studies.zoo import __main__ as zoo
from studies.zoo.page import page
from studies.zoo.results import Results

PROOF = {'verdict': False, 'reason': 'the loss changes | by 1'}
RESULT = {
    'summary': {
        'weights': 3e6, 'layers': 5, 'invariant_layers': 4, 'share_of_weights': 0.5
    },
    'seconds': 2.0, 'both': 3, 'neither': 1, 'undecided': 2, 'single': True,
    'only_structure': [{'name': 'a.weight', 'reason': 'by a norm', 'proof': PROOF}],
    'only_proof': [],
}  # fmt: skip


@pytest.fixture
def kept(tmp_path):
    results = Results(tmp_path, 'commit `c0ffee`')
    results.write('a/one.py', 'shipped', RESULT)
    results.write('a/one.py', 'trained', {'same': True})
    results.write('a/two.py', 'shipped', {'skipped': 'KeyError: a | <b>'})
    return results


def test_an_unknown_option_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['zoo', '--bad'])
    with pytest.raises(SystemExit) as exit:
        zoo.main()
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.startswith('error: ') and error.count('\n') == 1
    assert '--bad' in error


def test_the_page_counts_what_is_kept(kept):
    text = page(['a/one.py', 'a/two.py'], kept)
    assert 'Written by `python -m studies.zoo` at commit `c0ffee`, ' in text
    assert '1 of 4 runs are not done.' in text
    assert '**1 configs, 1 runs: precision 0.75, recall 1.0** over 4 decided' in text
    (row,) = rows(text, "Scale-invariant weights in MMDetection's zoo")
    assert (row['config'], row['norms'], row['found']) == ('a/one ¹', 'shipped', '4')
    assert '| a/one.py | `a.weight` | by a norm | the loss changes \\| by 1 |' in text
    assert rows(text, 'Skipped') == [
        {'config': 'a/two.py', 'norms': 'shipped', 'reason': 'a \\| &lt;b>'}
    ]
    assert '¹ the model cannot run in float64' in text


def test_kept_results_are_plain_json(kept):
    path = kept.path('a/one.py', 'shipped')
    assert path.name == 'a--one.py.shipped.json'
    assert json.loads(path.read_text()) == RESULT | {'code': 'commit `c0ffee`'}
    assert kept.read('a/two.py', 'trained') is None
