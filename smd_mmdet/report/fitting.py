"""Tables that fit where they are printed: a column is left out, never a digit."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from smd_mmdet._text import visible

__all__ = ['FittedTable', 'said']

# Columns whose lines may be broken, down to this width; all others hold numbers.
TEXT_COLUMNS = (
    'layer',
    'state',
    'why',
    'check',
    'verdict',
    'parameter',
    'invariant',
    '',
)
NARROWEST_TEXT = 16
# Sentences get so much if columns can be left out for it.
SENTENCE = 32


def said(text: object, style: str = '') -> Text:
    """A text to print, in which nothing is markup and nothing moves the cursor.

    Args:
        text: The text, of others or our own.
        style: How rich shows it, 'bold red' say.

    Example:
        >>> said('conv[bold]\\x1b[2J').plain
        'conv[bold]\\\\x1b[2J'
    """
    return Text(visible(text), style=style)


class FittedTable:
    """A table that knows what to do without.

    Args:
        title: What stands above it.
        columns: Names of the columns. The first one always stays.
        drop: Names of the columns that are left out where there is no room, the first
            to go first; after them, what is last goes first.
        stacked: Whether to leave nothing out, and to go on with the columns for which
            there is no room in a further table below.
        caption: What stands below it.
        lines: Which lines are drawn.

    Example:
        >>> table = FittedTable('Runs', 'run', 'iterations', 'lr', drop=['lr'])
        >>> table.add_row('plain', '7,557,000', '0.02')
        >>> Console(width=24).print(table)
        Runs
        ┏━━━━━━━┳━━━━━━━━━━━━┓
        ┃   run ┃ iterations ┃
        ┡━━━━━━━╇━━━━━━━━━━━━┩
        │ plain │  7,557,000 │
        └───────┴────────────┘
        no room for: lr (--json
        has all)
    """

    def __init__(
        self,
        title: str,
        *columns: str,
        drop: Sequence[str] = (),
        stacked: bool = False,
        caption: str = '',
        lines: Box = box.HEAVY_HEAD,
    ) -> None:
        self.title = title
        self.columns = [visible(column) for column in columns]
        self._drop = drop
        self._stacked = stacked
        self._caption = caption
        self._lines = lines
        self._rows: list[list[Text]] = []
        self._sections: set[int] = set()

    def add_row(self, *cells: str | Text) -> None:
        """Add a row.

        Args:
            cells: What stands in each column; a text that is not styled may be of
                others.
        """
        self._rows.append([c if isinstance(c, Text) else said(c) for c in cells])

    def add_section(self) -> None:
        """Draw a line below the last row."""
        self._sections.add(len(self._rows) - 1)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        if self.title:
            yield said(self.title, 'bold')
        every = list(range(len(self.columns)))
        if self._stacked:
            for kept in self._stacks(every, options.max_width):
                yield self._table(kept, options.max_width)
        else:
            kept = self._kept(every, options.max_width)
            yield self._table(kept, options.max_width)
            if missing := [self.columns[i] for i in every if i not in kept]:
                yield said(f'no room for: {", ".join(missing)} (--json has all)', 'dim')
        if self._caption:
            yield said(self._caption, 'dim')

    def _kept(self, every: list[int], width: int) -> list[int]:
        """The columns for which there is room."""
        spared = [self.columns.index(name) for name in self._drop]
        kept = list(every)
        while spared and self._needed(kept) + self._wanted() > width:
            kept.remove(spared.pop(0))
        while len(kept) > 1 and self._needed(kept) > width:
            kept.pop()
        return kept

    def _wanted(self) -> int:
        """By how much sentences would be wider than they need to be."""
        if 'why' not in self.columns:
            return 0
        column = self.columns.index('why')
        return min(self._cells(column), SENTENCE) - self._least(column)

    def _stacks(self, every: list[int], width: int) -> list[list[int]]:
        """The columns of each table, with the first one in all of them."""
        stacks = [every[:1]]
        for column in every[1:]:
            if len(stacks[-1]) > 1 and self._needed([*stacks[-1], column]) > width:
                stacks.append(every[:1])
            stacks[-1].append(column)
        return stacks

    def _needed(self, kept: Sequence[int]) -> int:
        return sum(self._least(i) for i in kept) + 3 * len(kept) + 1

    def _cells(self, column: int) -> int:
        """Width of the widest cell."""
        return max((row[column].cell_len for row in self._rows), default=0)

    def _natural(self, column: int) -> int:
        return max(self._cells(column), len(self.columns[column]))

    def _least(self, column: int) -> int:
        """The least width of a column; heads may be broken between words."""
        if self.columns[column] in TEXT_COLUMNS:
            return min(self._natural(column), NARROWEST_TEXT)
        words = self.columns[column].split() or ['']
        return max(self._cells(column), *map(len, words), 1)

    def _table(self, kept: Sequence[int], width: int) -> Table:
        """The columns as rich prints them."""
        numbers = [i for i in kept if self.columns[i] not in TEXT_COLUMNS]
        more = sum(self._natural(i) - self._least(i) for i in numbers)
        spare = width - self._needed(kept)
        if room := more <= spare:
            spare -= more
        table = Table(box=self._lines, pad_edge=self._lines is box.HEAVY_HEAD)
        for i in kept:
            head, natural, least = (
                said(self.columns[i]),
                self._natural(i),
                self._least(i),
            )
            if i in numbers:
                table.add_column(
                    head, justify='right', width=natural if room else least
                )
            else:
                # A name in the first column is broken last.
                whole = i == 0 and natural - least + self._wanted() <= spare
                table.add_column(
                    head, overflow='fold', width=natural if whole else None
                )
        for number, row in enumerate(self._rows):
            table.add_row(*(row[i] for i in kept), end_section=number in self._sections)
        return table
