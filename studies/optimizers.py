"""Writes which optimizers the theory covers: docs/optimizers.md.

What is covered is read from smd_mmdet's own laws, and the share of each from the
installed configs of MMDetection.

    python -m studies.optimizers
"""

import argparse
from collections import Counter
from pathlib import Path

import mmdet

from smd_mmdet.config.optimizer import read_optimizer
from smd_mmdet.launch.arguments import OneLineParser
from smd_mmdet.theory import THEORIES

from .markdown import table
from .zoo.trainings import installed_configs

# The law of each theory as docs/theory.md derives it. C: numbers of a weight; U: mean
# square of the update; L: mean of h̃; B of Lion: (1−β₁)² + β₁²(1−β₂)/(1+β₂).
FORMULAS = {
    'sgd': ('√(2λη/(1+α))', '(Lη/(λ(1−α)(2−λη/(1+α))))^¼', '4λη/(1−α)'),
    'nesterov': (
        *('√(2λη(1+2α−2α³)/(1+α)), corrected where gradients are correlated',),
        *('(Lη/(2λ(1−α)))^¼', '4λη/(1−α)'),
    ),
    'adamw': ('√(2ηλ(1−β₁)/(1+β₁))', '√(ηU(1+β₁)/(2λ(1−β₁)))', '2λη'),
    'nadamw': (*('√(2ηλ(1−β)²[(1+β)²+β⁴/(1−β²)])', '√(ηU/(2λ(1−β)²[…]))', '2λη'),),
    'lion': ('√(πηλB), indicative', '√(ηC/(πλB)), indicative', '2λη, indicative'),
    'lamb': ('η, whatever λ', 'none', 'none: Δ is η at once'),
    'adam': ('differs by layer', 'by layer: (η√C‖g̃‖/(2λ))^⅓', 'not derived'),
}
NOT_DERIVED = ('not derived',) * 3
HEADER = """\
# Optimizers that are covered

Written by `python -m studies.optimizers` from the laws in `smd_mmdet/theory.py` and the
{count} training configs of MMDetection {version}; do not edit.

Any optimizer can be measured: norms, gradients and Δ need no theory. This is what can
be predicted. *Rate* is the share of a small relative distance of ‖w‖ from w* that is
lost in an iteration. *Rescaling* is what weights are multiplied by when the rate is
divided by k, so that they are at their new equilibrium at once. *Plan* is what
`smd plan` tells before the training. *Zoo* is the number of configs, and their share.

Clipping the gradient's norm changes the law of SGD by a power p: 0 where it never
happens, 2 where it happens at every step, and twice the share of clipped steps, or
more, between. `smd plan` gives both limits, and with a measured run (`--work-dir`) the
one in between. Optimizers that divide by the gradient's size are hardly changed by it.
Clipping single numbers (`type='value'`) bends the gradient: it is measured, and nothing
is predicted.

"""
COLUMNS = ('optimizer', 'Δ*', 'w*', 'rate', 'rescaling', 'plan', 'zoo')


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(
        prog='python -m studies.optimizers',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--output', type=Path, default=Path('docs/optimizers.md'))
    return parser.parse_args()


def count() -> Counter[tuple[str, str]]:
    """How many of the installed configs have which theory and clip gradients how.

    Returns:
        The number of configs, by the name of the theory, and by what gradients are
        clipped; '' where they are not, or that changes nothing.
    """
    found: Counter[tuple[str, str]] = Counter()
    for _, config in installed_configs():
        optimizer = read_optimizer(config)
        law = THEORIES.get(optimizer.theory)
        matters = optimizer.clipping == 'value' or (law is not None and law.clips)
        found[optimizer.theory, optimizer.clipping if matters else ''] += 1
    return found


def page(counts: Counter[tuple[str, str]]) -> str:
    """docs/optimizers.md."""
    total = counts.total()
    kinds = [(name, '') for name in (*THEORIES, 'none')]
    kinds += [(name, 'norm') for name, law in THEORIES.items() if law.clips]
    kinds += [kind for kind in counts if kind not in kinds]
    rows = [
        (*_row(*kind), f'{counts[kind]} ({counts[kind] / total:.1%})')
        for kind in sorted(kinds, key=lambda kind: -counts[kind])
    ]
    head = HEADER.format(count=total, version=mmdet.__version__)
    return head + table(COLUMNS, rows) + '\n'


def _row(theory: str, clipping: str) -> tuple[str, ...]:
    """What is known of an optimizer."""
    law = THEORIES.get(theory)
    if law is None:
        return ('any other', *NOT_DERIVED, 'none', 'no theory')
    if clipping == 'value':
        return (f'{law.title}, clipped by value', *NOT_DERIVED, 'none', 'no theory')
    turn, norm, rate = FORMULAS[theory]
    if clipping == 'norm':
        rate = rate.replace('4', '(4−p)')
        return (
            f'{law.title}, clipped by norm',
            *(turn, f'{norm}, L at this norm', rate),
            *('k^(−1/(4−p))', 'forecast of both limits'),
        )
    if not law.norm_law:
        told = 'Δ' if law.turn is not None else 'that it differs by layer'
        return (law.title, turn, norm, rate, 'none', told)
    told = 'forecast, no verdict' if law.indicative else 'forecast'
    power = f'k^(−1/{law.exponent})'
    return (law.title, turn, norm, rate, power, told)


def main() -> None:
    args = parse_args()
    args.output.write_text(page(count()))


if __name__ == '__main__':
    main()
