"""Messages to the user: one line, and a hint where a name is nearly right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def one_line(said: object, limit: int | None = None) -> str:
    """An error or any other text without line breaks.

    Args:
        said: An exception, or a text.
        limit: How many characters to keep; None keeps all.
    """
    # str() of a KeyError is the repr of its message.
    if isinstance(said, KeyError) and len(said.args) == 1:
        said = said.args[0]
    text = ' '.join(str(said).split())
    if not text and isinstance(said, BaseException):
        text = type(said).__name__
    return text[:limit]


def first_line(error: BaseException) -> str:
    """The first line of what an error says; the rest is often a listing."""
    lines = str(error.args[0] if _is_plain(error) else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'did you mean ...?' with the known name next to a wrong one, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f'did you mean {close[0]!r}?' if close else ''


def _is_plain(error: BaseException) -> bool:
    return len(error.args) == 1 and isinstance(error.args[0], str)
