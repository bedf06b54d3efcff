"""What the page shows of the random walks."""

from collections.abc import Sequence

from smd_mmdet.report.words import plural

from ..markdown import table
from .cells import number
from .theorems import MOMENTS, Drop, Equilibrium
from .walks import Walks

__all__ = ['theorem_section']

THEOREMS = """\
## The theorems against random walks

{walks} walks in each row, in float64, of a weight of {size:,} numbers whose gradient
is tangential, of random direction, with ‖g̃‖² drawn evenly from 1 ± s; s is 0.5, with
little noise 0.1. λη/(1−α) is 1e-3 before a drop. L, V and l are those of the walks."""

COURSE = """\
E(‖w‖²−w\\*²)²/w\\*⁴ and its bound, after so many relaxation times (1−α)/(4λη) of ‖w‖⁴.
The bound is B·(1 − 2λη/(1−α))^t + C·Vη²/l, where B is the distance at the start.
Theorem 1 gives C = 2/(1−2λη); the C(α) of Theorem 2 is not stated here, and C is what
would just do at rest."""


def theorem_section(
    found: Sequence[Equilibrium], dropped: Sequence[Drop], walks: int
) -> list[str]:
    """The theorems' part of the page, in paragraphs.

    Args:
        found: Cases at rest, and on their way there.
        dropped: Cases whose learning rate falls.
        walks: Random walks in each case.
    """
    return [
        THEOREMS.format(walks=walks, size=Walks.size),
        '### At rest, and the way there (Theorems 1, 2, 3)',
        _rest_table(found),
        _exact(found),
        '### The bounds (Theorems 1, 2, 3)',
        COURSE,
        _course_table(found),
        _bound_table(found),
        _bounded(found),
        '### The rate divided by ten (Corollary 3.1 and rescaling)',
        _drop_table(dropped),
        _dropped(dropped),
    ]


def _rest_table(found: Sequence[Equilibrium]) -> str:
    head = (
        *('walk', 'L', 'V/L²', 'l/L', 'assumption 4: above', '‖w‖/w*', 'Δ_rms/Δ*'),
        *('rate of ‖w‖⁴ / 4λη/(1−α)', 'rate of E(‖w‖²−w*²)² / 2λη/(1−α)'),
    )
    rows = [
        (
            *(e.name, number(e.mean), number(e.noise), number(e.least)),
            *(number(e.least_allowed), f'{e.norm:.4f}', f'{e.angle:.4f}'),
            *(f'{e.rate:.3f}', f'{e.spread_rate:.2f}'),
        )
        for e in found
    ]
    return table(head, rows)


def _course_table(found: Sequence[Equilibrium]) -> str:
    head = ('walk', 'constant', *(f'{m:g}' for m in MOMENTS))
    rows = [
        (
            e.name,
            '2/(1−2λη)' if e.exceeded is not None else f'C = {number(e.constant)}',
            *(f'{number(was)}; {number(limit)}' for _, was, limit in e.course),
        )
        for e in found
    ]
    return table(head, rows)


def _bound_table(found: Sequence[Equilibrium]) -> str:
    head = (
        *('walk', r'E(‖w‖²−w\*²)²/w\*⁴ at rest', 'iterations beyond the bound'),
        *('most of the bound, after 1/e', 'share of Δ beyond the tolerance'),
        *('tolerance, and share allowed', '|Δ/Δ*−1| in 99 %'),
    )
    rows = [
        (
            *(e.name, number(e.spread)),
            *('–' if v is None else number(v) for v in (e.exceeded, e.closest)),
            *(number(e.off), number(e.allowed), f'below {number(e.usual)}'),
        )
        for e in found
    ]
    return table(head, rows)


def _drop_table(dropped: Sequence[Drop]) -> str:
    head = (
        *('walk', 'weights', 'Δ_rms/Δ* at once', 'after 1/e of ‖w‖⁴'),
        *('iterations to ‖w‖⁴ within 10 %', 'Corollary 3.1: at least'),
        'decay alone takes',
    )
    rows = [
        (
            *(d.name, 'rescaled' if d.rescaled else 'plain'),
            *(number(d.first), number(d.after_fold), number(d.needed)),
            *(number(d.corollary), number(d.decay_alone)),
        )
        for d in dropped
    ]
    return table(head, rows)


def _exact(found: Sequence[Equilibrium]) -> str:
    off = max(abs(value - 1) for e in found for value in (e.norm, e.angle))
    rate = max(abs(e.rate - 1) for e in found)
    least = min(e.spread_rate for e in found)
    return (
        f'w* and Δ* are met within {off:.2%}, also where gradients are correlated and '
        f'L is not E‖g̃‖² = 1. The mean of ‖w‖⁴ nears w\\*⁴ at 4λη/(1−α) within '
        f'{rate:.1%}; E(‖w‖²−w\\*²)² shrinks at least {least:.1f} times as fast as the '
        'theorems guarantee.'
    )


def _bounded(found: Sequence[Equilibrium]) -> str:
    exceeded = sum(e.exceeded or 0 for e in found)
    first = 'is never exceeded'
    if exceeded:
        first = f'is exceeded in {plural(exceeded, "iteration")}'
    second = 'holds' if all(e.off <= e.allowed for e in found) else 'does not hold'
    return (
        f'The bound of Theorem 1 {first}. That of Theorem 3 on the probability '
        f'{second}; its tolerance is wide, Δ stays much nearer to Δ*.'
    )


def _dropped(dropped: Sequence[Drop]) -> str:
    plain = [d for d in dropped if not d.rescaled]
    rescaled = [d for d in dropped if d.rescaled]
    shares = [d.needed / d.corollary for d in plain]
    off = max(abs(d.first - 1) for d in rescaled)
    return (
        f'Plain walks begin at {number(min(d.first for d in plain))} of the new Δ*; '
        f'rescaled ones are within {off:.1%} of it at once. Within 10 % of the new '
        f'equilibrium plain walks come after {min(shares):.2f} to {max(shares):.2f} of '
        'the iterations that the corollary calls the fewest to the equilibrium itself.'
    )
