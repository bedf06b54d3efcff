"""Where a page comes from: the command that wrote it, and the code that it ran."""

import datetime
from collections.abc import Iterable

from smd_mmdet.environment import own_version

__all__ = ['code', 'origin']


def code() -> str:
    """The code that runs: its commit, or its version where there is no checkout."""
    ours = own_version()
    if not ours['commit']:
        return f'version {ours["version"]}'
    return f'commit `{ours["commit"]}`' + ' with changes' * bool(ours['changed'])


def origin(command: str, codes: Iterable[str] | None = None) -> str:
    """The sentence with which a page begins.

    Args:
        command: What was called.
        codes: What was running when the results came about, if that was not now: of
            each :func:`code`.
    """
    seen = [code()] if codes is None else sorted(set(codes))
    when = datetime.date.today().isoformat()
    return f'Written by `{command}` at {", ".join(seen)}, {when}; do not edit.'
