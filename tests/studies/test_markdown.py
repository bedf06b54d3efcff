"""Tables in Markdown."""

from studies.markdown import row, table


def test_a_table_has_a_line_for_its_head_and_for_each_row():
    text = '| a | b |\n| --- | --- |\n| 1 | x y |'
    assert table(['a', 'b'], [[1, 'x\n y']]) == text


def test_a_table_without_rows_is_nothing():
    assert table(['a', 'b'], []) == ''


def test_a_bar_does_not_end_its_cell():
    assert row(['|Δ|', '']) == '| \\|Δ\\| |  |'
