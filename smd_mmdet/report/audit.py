"""An audit as a table for the terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def render_audit(audit: dict) -> RenderableType:
    """A line per parameter, then the totals, then what the user can do.

    Args:
        audit: Of :func:`smd_mmdet.audit.audit`.

    Returns:
        Something rich prints.
    """
    parts: list[RenderableType] = [_table(audit['parameters'])]
    parts += [Text(line) for line in _totals(audit['summary'])]
    for name in audit['contradictions']:
        parts.append(Text(f'! structure and proof differ: {name}', style='red'))
    parts += [Text(line) for line in audit['advice']]
    return Group(*parts)


def _table(parameters: list[dict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column('parameter', no_wrap=True)
    table.add_column('invariant')
    table.add_column('why', overflow='fold')
    proved = bool(parameters) and 'proof' in parameters[0]
    if proved:
        table.add_column('cosine(w, g)', justify='right', no_wrap=True)
    for parameter in parameters:
        row = [
            escape(parameter['name']),
            '[green]yes[/]' if parameter['invariant'] else 'no',
            escape(parameter['reason']),
        ]
        table.add_row(*row, *([_cosine(parameter['proof'])] if proved else []))
    return table


def _cosine(proof: dict | None) -> str:
    if proof is None or proof['cosine'] is None:
        return '–'
    return f'{proof["cosine"]:.1e}'


def _totals(summary: dict) -> list[str]:
    return [
        f'{summary["invariant_layers"]} of {summary["layers"]} layers are '
        f'scale-invariant ({summary["share_of_layers"]:.1%}), and '
        f'{summary["share_of_weights"]:.1%} of all {summary["weights"]:,} weights'
    ]
