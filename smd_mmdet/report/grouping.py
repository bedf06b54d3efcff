"""Layers of which the same is to be said, told together; and the choice of some."""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from smd_mmdet._text import did_you_mean
from smd_mmdet.checks import Report
from smd_mmdet.stages import stage_name

__all__ = ['grouped', 'number', 'pieces', 'select', 'span', 'template', 'together']

Item = TypeVar('Item')
# A number that is no part of a name, such as 17,804 or 1e-05.
_FIGURE = re.compile(r'(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])')


def number(value: float | None, digits: int = 3) -> str:
    """A number as tables show it.

    Args:
        value: The number; None and NaN are not known.
        digits: How many digits count.

    Example:
        >>> number(0.31623), number(7_557_000), number(None)
        ('0.316', '7,557,000', '–')
    """
    if value is None or value != value:
        return '–'
    return f'{value:.{digits}g}' if abs(value) < 1e4 else f'{value:,.0f}'


def span(values: Iterable[float | None], digits: int = 3) -> str:
    """The lowest and the highest of some numbers.

    Args:
        values: The numbers; None and NaN are left out.
        digits: How many digits count.

    Example:
        >>> span([0.349, None, 0.362]), span([1.0, 1.0]), span([])
        ('0.349–0.362', '1', '–')
    """
    known = [value for value in values if value is not None and value == value]
    if not known:
        return number(None)
    return _from_to(number(min(known), digits), number(max(known), digits))


def _from_to(low: str, high: str) -> str:
    if low == high:
        return low
    # A dash beside a minus would be read as one.
    return f'{low} … {high}' if '-' in low + high else f'{low}–{high}'


def template(sentence: str) -> str:
    """A sentence without its figures.

    Example:
        >>> template('about 17,804 iterations more (95%) after conv1')
        'about # iterations more (#%) after conv1'
    """
    return _FIGURE.sub('#', sentence)


def pieces(sentence: str) -> tuple[list[str], list[str]]:
    """A sentence taken apart: the words around its figures, and the figures.

    Example:
        >>> pieces('about 17,804 iterations more (95%)')
        (['about ', ' iterations more (', '%)'], ['17,804', '95'])
    """
    return _FIGURE.split(sentence), _FIGURE.findall(sentence)


def together(sentences: Sequence[str]) -> str:
    """One sentence for some that differ by their figures only.

    Args:
        sentences: Sentences of the same :func:`template`.

    Returns:
        The sentence; where a figure differs, the lowest and the highest one.

    Example:
        >>> together(['Δ/Δ* is 0.35; 900 more', 'Δ/Δ* is 0.36; 1,200 more'])
        'Δ/Δ* is 0.35–0.36; 900–1,200 more'
    """
    columns = iter(zip(*map(_FIGURE.findall, sentences), strict=True))

    def ends(_: re.Match) -> str:
        figures = sorted(next(columns), key=lambda f: float(f.replace(',', '')))
        return _from_to(figures[0], figures[-1])

    return _FIGURE.sub(ends, sentences[0])


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items of the same key together, in the order of the first of each.

    Example:
        >>> grouped(['conv1', 'fc', 'conv2'], lambda name: name[0])
        [['conv1', 'conv2'], ['fc']]
    """
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def select(
    report: Report, layers: Sequence[str] = (), stage: int | None = None
) -> Report:
    """Some layers of a report, or one stage; the verdict stays that on the whole run.

    Args:
        report: What :func:`smd_mmdet.checks.check` returns.
        layers: Names of layers, which may lack the ending '.weight'; none for all.
        stage: Number of a stage; None for all.

    Raises:
        ValueError: If there is no such layer or stage.

    Example:
        >>> select(Report([], [], 'no layer was measured', 0), ['conv1'])
        Traceback (most recent call last):
        ValueError: no layer 'conv1' in the records
    """
    known = {layer.layer: layer for layer in report.layers}
    chosen = [known[_full_name(name, known)] for name in layers] or report.layers
    if stage is None:
        return replace(report, layers=chosen)
    numbers = [one.stage for one in report.stages]
    if stage not in numbers:
        there = ', '.join(stage_name(one) for one in numbers) or 'none'
        raise ValueError(f'no {stage_name(stage)} in the records; there: {there}')
    return replace(
        report,
        layers=[
            replace(layer, stages=[one for one in layer.stages if one.stage == stage])
            for layer in chosen
        ],
        stages=[one for one in report.stages if one.stage == stage],
    )


def _full_name(name: str, known: Iterable[str]) -> str:
    known = list(known)
    for full in (name, f'{name}.weight'):
        if full in known:
            return full
    hint = did_you_mean(name, [one.removesuffix('.weight') for one in known])
    raise ValueError(f'no layer {name!r} in the records{hint and f"; {hint}"}')
