"""Reading a page of Markdown back."""


def rows(text, title):
    """The first table under a heading, as a dict of cells for each of its rows."""
    lines = text.split(f'# {title}\n')[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith('|'))
    found = []
    for line in lines[first:]:
        if not line.startswith('|'):
            break
        found.append([cell.strip() for cell in line.strip('|').split(' | ')])
    return [dict(zip(found[0], row, strict=True)) for row in found[2:]]
