"""What `smd transfer` prints."""

from typing import Any

from rich.console import Group, RenderableType

from .fitting import FittedTable, said

__all__ = ['render_transfer']


def render_transfer(found: dict[str, Any]) -> RenderableType:
    """What was written, and what it does not promise.

    Args:
        found: What :func:`smd_mmdet.transfer.transfer` returns.

    Returns:
        The file, what is new in it, the run against the config, and what is not
        guaranteed, for rich to print.

    Example:
        >>> from rich.console import Console
        >>> found = dict(run='a', config='b.py', output='c.py')
        >>> found |= dict(settings=[('lr, highest', '0.1', '0.2')])
        >>> found |= dict(done=['it inherits b.py'], not_guaranteed=['heads'])
        >>> console = Console(width=60)
        >>> with console.capture() as kept:
        ...     console.print(render_transfer(found))
        >>> kept.get().splitlines()[0]
        'c.py follows the angular updates of a'
    """
    table = FittedTable('The run against the config', 'setting', 'run', 'config')
    for row in found['settings']:
        table.add_row(*row)
    head = f'{found["output"]} follows the angular updates of {found["run"]}'
    return Group(
        said(head, 'bold green'),
        *(said(f'• {line}') for line in found['done']),
        table,
        said('What is not guaranteed to be as in the run:', 'yellow'),
        *(said(f'! {line}', 'yellow') for line in found['not_guaranteed']),
        said(f'Train it: python tools/train.py {found["output"]}', 'dim'),
    )
