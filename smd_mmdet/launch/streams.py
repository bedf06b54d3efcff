"""Standard output and error as users set them up: closed, full, cut off, or ASCII only.

None of these may end a command in a traceback, whose exit code 1 means something else.
"""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

__all__ = ['finish', 'open_streams', 'put', 'results', 'results_alone', 'tell']

# What stands for a character that an encoding lacks. One for one in tables, whose
# columns stay below one another; '?' for all others.
_PLAIN = str.maketrans(
    {
        **{'Δ': 'D', '‖': '|', '²': '2', '⁴': '4', '·': '*', '×': 'x', '•': '*'},
        **{'→': '>', '–': '-', '—': '-', '−': '-', '…': '.', '’': "'", '±': '~'},
        **{'⟨': '<', '⟩': '>', '≤': '<=', '≥': '>=', '√': 'sqrt', '\u0303': ''},
        **{'α': 'alpha', 'ε': 'epsilon', 'η': 'eta', 'λ': 'lambda', 'σ': 'sigma'},
    }
)
_ERRORS = 'smd_mmdet.plain'
# Standard output, while what others print goes elsewhere.
_results: TextIO | None = None


def open_streams(program: str) -> None:
    """Make sure that there are streams to write to, which take every character.

    Args:
        program: Name of the program, for the message.

    Raises:
        SystemExit: With code 2 and one line on standard error, if standard output is
            closed.

    Example:
        >>> open_streams('smd')
    """
    if sys.stderr is None:
        # It stays open as long as the process, as standard error does.
        sys.stderr = open(os.devnull, 'w')  # noqa: SIM115
    codecs.register_error(_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
    if sys.stdout is None:
        tell(f'{program}: error: standard output is closed: nothing can be printed')
        raise SystemExit(2)


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Keep standard output for :func:`put`: what others print goes to standard error.

    Configs print, and packages when they are imported.

    Example:
        >>> with results_alone():
        ...     print('from a config')
        ...     put('a result\\n')
        a result
    """
    global _results
    before, _results = _results, results()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _results = before


def results() -> TextIO:
    """Where results are written to: standard output.

    Example:
        >>> results() is sys.stdout
        True
    """
    return _results or sys.stdout


def put(text: str) -> None:
    """Write to standard output; where nobody reads any more, to nowhere.

    Args:
        text: What to write.

    Raises:
        OSError: If it cannot be written, on a full disk for instance.

    Example:
        >>> put('a line\\n')
        a line
    """
    _write(results(), text)


def tell(line: str) -> None:
    """Write a line to standard error, if that can be written to.

    Args:
        line: The line, without the character that ends it.

    Example:
        >>> tell('smd: error: the path is empty')
    """
    with contextlib.suppress(OSError):
        _write(sys.stderr, f'{line}\n')


def finish(program: str, code: int) -> int:
    """Write what is still held back, so that nothing fails when the process ends.

    Args:
        program: Name of the program, for the message.
        code: The exit code that the program has come to.

    Returns:
        The exit code: 2, with one line on standard error, if standard output cannot
        be written.

    Example:
        >>> finish('smd', 0)
        0
    """
    try:
        _write(sys.stdout, '')
    except OSError as error:
        tell(f'{program}: error: {error}')
        code = 2
    with contextlib.suppress(OSError):
        _write(sys.stderr, '')
    return code


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _discard(stream)
    except OSError as error:
        _discard(stream)
        name = 'standard error' if stream is sys.stderr else 'standard output'
        raise OSError(f'{name}: {error.strerror or error}') from error


def _discard(stream: TextIO) -> None:
    """Let what is written to a stream go nowhere, also when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A handler of errors for :mod:`codecs`, which gives plain letters.

    Raises:
        UnicodeError: If it is no fault of encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(_PLAIN)
    return ''.join(c if c.isascii() else '?' for c in lacking), error.end
