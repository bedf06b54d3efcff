"""What runs survive: the cases of the study, and its page."""

import pytest

from studies.reliability import page
from studies.reliability.case import CannotTest, Group
from studies.reliability.kills import killed_runs

FAST = {
    *('disk_full_injected', 'records_deleted', 'a_file_in_the_way'),
    *('visualizer_fails', 'commands_on_damaged_records', 'all_frozen'),
    *('commands_on_incomplete_records', 'optimizer_without_the_layers'),
    'hostile_settings',
}


@pytest.mark.parametrize(
    'case',
    [
        pytest.param(
            case,
            id=case.name,
            marks=() if case.name in FAST else pytest.mark.slow,
        )
        for group in page.GROUPS
        for case in group.cases
        if case.name != 'kills'
    ],
)
def test_a_run_survives(case, tmp_path):
    try:
        case.run(tmp_path)
    except CannotTest as why:
        pytest.skip(str(why))


def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    killed_runs(tmp_path, 1)


@pytest.mark.slow
def test_runs_killed_fifty_times_end_as_if_they_had_not_been(tmp_path):
    killed_runs(tmp_path, 50)


def test_the_table_tells_a_failure():
    group = Group('Group')

    @group.case('title')
    def fails(folder):
        """It fails."""
        raise AssertionError('a | b')

    text = page.page([(group, [page.examine(case) for case in group.cases])])
    assert '| title | It fails | AssertionError: a \\| b | **fails** |' in text
