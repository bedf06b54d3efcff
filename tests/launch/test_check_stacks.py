"""What tools/check_stacks.py makes of test reports, on reports written here."""

import json
import sys

import pytest
from launching import ROOT

sys.path.append(str(ROOT / 'tools'))  # behind tests, which has a processes.py too
import check_stacks

CASE = '<testcase classname="tests.test_a" name="test_{0}">{1}</testcase>'
FAILED = '<failure message="AssertionError: assert 1 == 2&#10;more">long</failure>'


def skipped(reason):
    return f'<skipped type="pytest.skip" message="{reason}">where</skipped>'


@pytest.fixture
def folder(tmp_path):
    """Two stacks that have run."""

    def ran(name, cases):
        home = tmp_path / name
        home.mkdir()
        text = ''.join(CASE.format(i, inner) for i, inner in enumerate(cases))
        whole = f'<testsuites><testsuite>{text}</testsuite></testsuites>'
        (home / 'results.xml').write_text(whole)
        versions = {'Python': '3.11.7', 'torch': '2.1.2', 'MMPretrain': None}
        about = {'checkout': 'x', 'versions': versions, 'date': '2026-11-27'}
        (home / 'results.json').write_text(json.dumps(about))

    gpu = skipped('there is no GPU')
    ran('pinned', ['', '', gpu, '', ''])
    ran('oldest', ['', FAILED, gpu, skipped('torch 2.1.2 has no fused SGD'), ''])
    return tmp_path


def test_the_page_counts_and_tells_what_differs(folder, tmp_path):
    page = tmp_path / 'stacks.md'
    assert not check_stacks.write_page(folder, page)  # a failure is not explained
    text = page.read_text()
    assert '| oldest | 3.11.7 | 2.1.2 | – | 2 | 1 | 2 | 2026-11-27 |' in text
    assert '| pinned | 3.11.7 | 2.1.2 | – | 4 | 0 | 1 | 2026-11-27 |' in text
    oldest = text.partition('## oldest')[2].partition('## pinned')[0]
    assert '- 1 skipped: torch 2.1.2 has no fused SGD' in oldest
    assert 'GPU' not in oldest  # as on the pinned stack
    assert (
        '`tests.test_a::test_1`: not explained; AssertionError: assert 1 == 2' in text
    )
    assert 'Not run yet: newest, fork.' in text


def test_a_failure_that_is_explained_is_no_fault(folder, tmp_path, monkeypatch):
    explained = {'oldest': {r'test_1$': 'torch 2.1 is at fault'}}
    monkeypatch.setattr(check_stacks, 'EXPLAINED', explained)
    page = tmp_path / 'stacks.md'
    assert check_stacks.write_page(folder, page)
    assert (
        '**failed** `tests.test_a::test_1`: torch 2.1 is at fault' in page.read_text()
    )


def test_tests_that_ran_are_not_repeated(folder, monkeypatch):
    monkeypatch.setattr(check_stacks, 'checkout', lambda: 'x')

    def never(*_, **__):
        raise AssertionError('the tests were run again')

    monkeypatch.setattr(check_stacks, 'run', never)
    python = folder / 'oldest/bin/python'
    check_stacks.test('oldest', python, folder, again=False)
    with pytest.raises(AssertionError, match='run again'):
        check_stacks.test('oldest', python, folder, again=True)
    monkeypatch.setattr(check_stacks, 'checkout', lambda: 'changed')
    with pytest.raises(AssertionError, match='run again'):
        check_stacks.test('oldest', python, folder, again=False)


def test_every_stack_names_files_that_are_there():
    for stack in check_stacks.stacks().values():
        for name in stack.libraries:
            assert (ROOT / f'requirements/{name}.txt').is_file()


@pytest.mark.parametrize('outcome', ['', FAILED])
def test_what_was_mended_is_run_again_alone(folder, tmp_path, monkeypatch, outcome):
    commands = []

    def run(what, command, log, env=None, cwd=None):
        commands.append([str(word) for word in command])
        report = next(w for w in commands[-1] if w.startswith('--junitxml='))
        text = (
            f'<testsuites><testsuite>{CASE.format(1, outcome)}</testsuite></testsuites>'
        )
        (folder / report.partition('=')[2]).write_text(text)

    monkeypatch.setattr(check_stacks, 'run', run)
    check_stacks.test_mended('oldest', folder / 'oldest/bin/python', folder)
    assert [w for w in commands[0] if '::' in w] == ['tests/test_a.py::test_1']
    page = tmp_path / 'stacks.md'
    assert check_stacks.write_page(folder, page) is not bool(outcome)
    counts = '2 | 1 | 2' if outcome else '3 | 0 | 2'
    assert f'| oldest | 3.11.7 | 2.1.2 | – | {counts} |' in page.read_text()
    assert '- failed at first, then mended and run again: 1' in page.read_text()
    # Nothing has failed on the other one.
    check_stacks.test_mended('pinned', folder / 'pinned/bin/python', folder)
    assert len(commands) == 1
