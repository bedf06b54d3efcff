"""Tables in Markdown, for the pages of the studies and of the benchmarks."""

from collections.abc import Iterable, Sequence

__all__ = ['plain', 'row', 'table']


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table.

    Args:
        head: Names of the columns.
        rows: Cells of each row, as many as there are columns.

    Returns:
        The lines of the table, without a line break at the end; '' if it has no rows.
    """
    lines = [row(cells) for cells in rows]
    if not lines:
        return ''
    return '\n'.join([row(head), row(['---'] * len(head)), *lines])


def row(cells: Iterable[object]) -> str:
    """One line of a table."""
    return f'| {" | ".join(map(_cell, cells))} |'


def plain(text: str) -> str:
    """Text in which no HTML begins."""
    return text.replace('<', '&lt;')


def _cell(value: object) -> str:
    """Text that neither ends its cell nor its line."""
    return ' '.join(str(value).replace('|', '\\|').split())
