"""Where a page says that it comes from."""

import datetime

import pytest

from studies import origin

TODAY = datetime.date.today().isoformat()


@pytest.mark.parametrize(
    ('found', 'said'),
    [
        (dict(version='1.2', commit='abc123', changed=False), 'commit `abc123`'),
        (
            dict(version='1.2', commit='abc123', changed=True),
            'commit `abc123` with changes',
        ),
        (dict(version='1.2', commit=None, changed=None), 'version 1.2'),
    ],
)
def test_a_page_names_its_command_its_code_and_its_day(monkeypatch, found, said):
    monkeypatch.setattr(origin, 'own_version', lambda: found)
    assert origin.origin('make it') == (
        f'Written by `make it` at {said}, {TODAY}; do not edit.'
    )


def test_results_of_several_commits_name_each_once():
    sentence = origin.origin('make it', ['commit `b`', 'commit `a`', 'commit `b`'])
    assert f' at commit `a`, commit `b`, {TODAY};' in sentence
