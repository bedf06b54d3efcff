"""Messages to the user: one line, and a hint where a name is nearly right."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def one_line(said: object, limit: int | None = None) -> str:
    """What an error says, or any other text, without line breaks.

    Args:
        said: An exception or a text. An exception without a message is told by the
            name of its class.
        limit: How many characters to keep; None keeps all.
    """
    # str() of a KeyError is the repr of its message, with quotes about it.
    if isinstance(said, KeyError) and len(said.args) == 1:
        said = said.args[0]
    text = visible(' '.join(str(said).split()))
    if not text and isinstance(said, BaseException):
        text = type(said).__name__
    return text[:limit]


def visible(said: object) -> str:
    """A text of others without what a terminal would obey.

    The name of a layer or a text of a config may hold escape sequences that clear the
    screen or retitle the window, or marks that turn the direction of writing.

    Args:
        said: The text, or what is told by its ``str()``.

    Returns:
        The text; each control character, other than an ordinary space, as Python
        would write it.
    """
    return ''.join(
        c if c == ' ' or unicodedata.category(c) not in _OBEYED else _escaped(c)
        for c in str(said)
    )


# Control and format characters, halves of a pair, and the separators of lines.
_OBEYED = ('Cc', 'Cf', 'Cs', 'Zl', 'Zp')


def _escaped(character: str) -> str:
    return character.encode('unicode_escape').decode('ascii')


def scientific(value: float) -> str:
    """A number in scientific notation, without a zero in its exponent.

    Args:
        value: The number; three of its digits are kept.
    """
    return f'{value:.2e}'.replace('e-0', 'e-').replace('e+0', 'e+')


def about(count: float) -> str:
    """A count that is an estimate, to three digits.

    Args:
        count: The count; up to 1,000 all of its digits are kept.
    """
    return f'{float(f"{count:.3g}"):,.0f}'


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the lines after it are often a listing."""
    lines = str(error.args[0] if _is_plain(error) else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question "did you mean ...?" with the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f'did you mean {close[0]!r}?' if close else ''


def _is_plain(error: BaseException) -> bool:
    """Whether the error was raised with a text and nothing else."""
    return len(error.args) == 1 and isinstance(error.args[0], str)
