"""Tables of the page, and what they come to in a sentence."""

from collections.abc import Sequence

import numpy as np

from ..markdown import table
from ..reproduction.cells import number
from .cost import KINDS, ratios
from .results import Block
from .runs import BASE, DECAYS, EACH, SETTINGS, VARIANTS, swept
from .statistics import Interval, best_of, effect_of, interval_of, spread_of

__all__ = [
    'best_table',
    'cost_table',
    'decay_claim',
    'decay_table',
    'replay_claim',
    'replay_table',
    'schedule_claim',
    'schedule_table',
    'sweep_claim',
]

SCHEDULES = {
    'late_rate': ('constant, then cosine in the rate', ''),
    'late_equilibrium': ('the same, Δ of equilibrium', 'late_rate'),
    'late_angle-set': ('constant, then cosine in Δ', 'late_rate'),
    'drop_plain': ('rate ÷10, plain', ''),
    'drop_rescaled': ('rate ÷10, rescaled', 'drop_plain'),
    'drop_equilibrium': ('rate ÷10, Δ of equilibrium', 'drop_plain'),
}


def interval(found: Interval, scale: float = 1.0, sign: bool = False) -> str:
    """A mean, and its interval in brackets where there is one."""
    if not found.seeds:
        return '–'
    form = '+' if sign else ''

    def shown(value: float) -> str:
        value *= scale
        return f'{value:{form}.3f}' if scale == 1 else f'{value:{form}.1f}'

    text = shown(found.mean)
    if np.isfinite(found.low):
        text += f' ({shown(found.low)} to {shown(found.high)})'
    return text


# ------------------------------------------------------------------ replay


def _effects(block: Block) -> dict:
    reference = block.curves(BASE.name)
    found = {}
    for title, run in VARIANTS.items():
        effect = effect_of(
            reference, block.curves(run.name), block.curves(f'{run.name}-replay')
        )
        if effect.closed.seeds:
            found[title] = effect
    return found


def _floor(block: Block, name: str = f'{BASE.name}-replay') -> Interval:
    """How far the reference is from itself when its own Δ is replayed."""
    reference = block.curves(BASE.name)
    return effect_of(reference, reference, block.curves(name)).replayed


def replay_table(block: Block) -> str:
    """How far each change moves the loss, with and without replay."""
    rows = []
    for title, effect in _effects(block).items():
        name = VARIANTS[title].name
        rows.append(
            (
                *(title, effect.closed.seeds),
                *map(interval, (effect.plain, effect.replayed)),
                interval(effect.closed, sign=True),
                effect.verdict,
                *_ends(block, name),
                *_ends(block, f'{name}-replay'),
            )
        )
    again = {'nothing': f'{BASE.name}-replay', 'nothing, at every step': EACH.name}
    for place, (title, name) in enumerate(again.items()):
        if (floor := _floor(block, name)).seeds:
            ends = *_ends(block, BASE.name), *_ends(block, name)
            row = (title, floor.seeds, '0', interval(floor), '', '', *ends)
            rows.insert(place, row)
    head = ('changed', 'seeds', 'plain', 'replayed', 'plain − replayed', 'replay is')
    return table((*head, 'accuracy, %', 'loss', 'replayed: accuracy', 'loss'), rows)


def _ends(block: Block, name: str) -> tuple[str, str]:
    """Accuracy and loss at the end."""
    accuracy, loss = (block.mean(name, each) for each in ('accuracy', 'loss'))
    return f'{100 * accuracy.mean:.1f}', f'{loss.mean:.3f}'


def replay_claim(blocks: Sequence[Block]) -> str:
    """How many changes the replay makes good; '' without runs."""
    found = [effect for block in blocks for effect in _effects(block).values()]
    if not found:
        return ''
    verdicts = [effect.verdict for effect in found]
    if all(np.isnan(effect.closed.low) for effect in found):
        return '**Replay: one seed, not decided.**'
    nearer = sum(verdict.startswith('nearer') for verdict in verdicts)
    within = sum(verdict.endswith('within the spread') for verdict in verdicts)
    further = verdicts.count('further')
    known = [block for block in blocks if _effects(block)]
    floors = [_floor(block).mean for block in known]
    far = np.mean([effect.plain.mean for effect in found])
    near = np.mean([effect.replayed.mean for effect in found])
    spreads = ', '.join(
        f'{number(spread_of(list(block.curves(BASE.name).values())))} on {block.data}'
        for block in known
    )
    return (
        f'**With the Δ of the reference the loss comes nearer to its loss in {nearer} '
        f'of {len(found)} changes, and surely within the spread of its seeds in '
        f'{within}; it goes further away in {further}.** Over all changes the mean '
        f'distance of the loss curves is {far:.2f} spreads without replay and '
        f'{near:.2f} with it, where the reference with its own Δ replayed is '
        f'{np.nanmean(floors):.2f} away from itself; a spread is the mean distance in '
        f'ln(loss) between two seeds of the reference ({spreads}). Plain minus '
        f'replayed, the mean over changes: {"; ".join(map(_pooled, known))}.'
    )


def _pooled(block: Block) -> str:
    """By how many spreads replay brings the loss nearer, over all changes."""
    gains = [effect.gains for effect in _effects(block).values()]
    seeds = set.intersection(*(set(each) for each in gains))
    means = [float(np.mean([each[s] for each in gains])) for s in sorted(seeds)]
    return f'{interval(interval_of(means), sign=True)} on {block.data}'


# ------------------------------------------------------------------ weight decay


def decay_table(block: Block) -> str:
    """Accuracy and loss at each weight decay, plain and controlled."""
    rows = []
    for factor in DECAYS:
        name = f'decay_{factor:g}'
        both = name, f'{name}-set'
        if not any(block.runs.get(each) for each in both):
            continue
        gains = [
            interval(block.difference(both[1], both[0], quantity), scale, sign=True)
            for quantity, scale in (('accuracy', 100.0), ('loss', 1.0))
        ]
        seeds = min(len(block.runs.get(each, {})) for each in both)
        cells = [
            interval(block.mean(each, quantity), scale)
            for quantity, scale in (('accuracy', 100.0), ('loss', 1.0))
            for each in both
        ]
        rows.append((f'×{factor:g}', seeds, *cells, *gains))
    head = ('weight decay', 'seeds', 'accuracy, %: plain', 'controlled')
    return table(
        (*head, 'loss: plain', 'controlled', 'change of accuracy', 'of loss'), rows
    )


def decay_claim(blocks: Sequence[Block]) -> str:
    """By how much accuracy and loss depend on weight decay; '' without runs."""
    parts = []
    for block in blocks:
        accuracy, loss = _ranges(block, 'accuracy'), _ranges(block, 'loss')
        if accuracy is None or loss is None:
            continue
        parts.append(
            f'{block.data}: from the best to the worst decay accuracy differs by '
            f'{100 * accuracy[0].mean:.1f} points plain and by '
            f'{100 * accuracy[1].mean:.1f} controlled, '
            f'{interval(accuracy[2], 100.0, sign=True)} between them; the loss by '
            f'{loss[0].mean:.3f} and {loss[1].mean:.3f}, '
            f'{interval(loss[2], sign=True)}'
        )
    if not parts:
        return ''
    return f'**Weight decay from ÷16 to ×16.** {". ".join(parts)}.'


def _ranges(block: Block, quantity: str) -> tuple[Interval, Interval, Interval] | None:
    """Highest minus lowest over all decays: plain, controlled, and the difference."""
    plain, controlled = (
        block.over_runs(
            [f'decay_{factor:g}{end}' for factor in DECAYS], quantity, np.ptp
        )
        for end in ('', '-set')
    )
    common = sorted(plain.keys() & controlled.keys())
    if not common:
        return None
    pairs = [(plain[s], controlled[s], plain[s] - controlled[s]) for s in common]
    first, second, less = (interval_of(each) for each in zip(*pairs, strict=True))
    return first, second, less


# ------------------------------------------------------------------ schedules


def schedule_table(block: Block) -> str:
    """Accuracy and loss of the schedules, and their gain over the plain run."""
    rows = []
    for name, (title, against) in SCHEDULES.items():
        if not block.runs.get(name):
            continue
        gains = [
            interval(block.difference(name, against, quantity), scale, sign=True)
            if against
            else ''
            for quantity, scale in (('accuracy', 100.0), ('loss', 1.0))
        ]
        ends = [
            interval(block.mean(name, quantity), scale)
            for quantity, scale in (('accuracy', 100.0), ('loss', 1.0))
        ]
        rows.append((title, len(block.runs[name]), *ends, *gains))
    head = ('schedule', 'seeds', 'accuracy, %', 'loss', 'accuracy over plain')
    return table((*head, 'loss over plain'), rows)


def schedule_claim(blocks: Sequence[Block]) -> str:
    """How often a schedule is better than the plain one; '' without runs."""
    found = [
        block.difference(name, against, 'accuracy')
        for block in blocks
        for name, (_, against) in SCHEDULES.items()
        if against
    ]
    found = [difference for difference in found if np.isfinite(difference.low)]
    if not found:
        return ''
    higher = sum(difference.low > 0 for difference in found)
    lower = sum(difference.high < 0 for difference in found)
    return (
        f'**Schedules.** Of {len(found)} comparisons with the plain schedule accuracy '
        f'is surely higher in {higher} and surely lower in {lower}; for the others '
        'the seeds are too few, or there is no difference.'
    )


# ------------------------------------------------------------------ sweeps


def _best(block: Block, setting: tuple[float, int], by_angle: bool) -> dict[int, tuple]:
    """The best peak of each seed that has the whole curve, and whether at an end."""
    names, peaks = swept(block.question, setting, by_angle)
    losses = [block.values(name, 'loss') for name in names]
    seeds = set.intersection(*(set(each) for each in losses))
    return {s: best_of(peaks, [each[s] for each in losses]) for s in sorted(seeds)}


def best_table(blocks: Sequence[Block]) -> str:
    """The best rate and the best Δ of each optimizer, decay and batch."""
    rows = []
    for block in blocks:
        for decay, batch in SETTINGS:
            cells = []
            for by_angle in (False, True):
                best = _best(block, (decay, batch), by_angle)
                cells += [
                    _mean_best(best),
                    _least_loss(block, (decay, batch), by_angle),
                ]
            if any(cell != '–' for cell in cells):
                optimizer = block.question.removeprefix('sweep-')
                titles = {'sgd': 'SGD', 'adamw': 'AdamW'}
                rows.append((titles[optimizer], f'×{decay:g}', batch, *cells))
    head = ('optimizer', 'decay', 'batch', 'best rate', 'loss there')
    return table((*head, 'best Δ, rad', 'loss there'), rows)


def _mean_best(best: dict[int, tuple]) -> str:
    """Geometric mean over seeds, their range, and how many are at an end."""
    if not best:
        return '–'
    peaks = [peak for peak, _ in best.values()]
    text = number(float(np.exp(np.mean(np.log(peaks)))), 2)
    if len(peaks) > 1:
        text += f' ({number(min(peaks), 2)} to {number(max(peaks), 2)})'
    ends = sum(end for _, end in best.values())
    return text + f', {ends} at an end' * bool(ends)


def _least_loss(block: Block, setting: tuple[float, int], by_angle: bool) -> str:
    names, _ = swept(block.question, setting, by_angle)
    found = block.over_runs(names, 'loss', np.min)
    return f'{np.mean(list(found.values())):.3f}' if found else '–'


def sweep_claim(blocks: Sequence[Block]) -> str:
    """How far the best peaks of the settings are apart; '' without whole sweeps."""
    parts = []
    for data in dict.fromkeys(block.data for block in blocks):
        of_data = [block for block in blocks if block.data == data]
        rate = [_apart([block], by_angle=False) for block in of_data]
        angle = [_apart([block], by_angle=True) for block in of_data]
        for block, r, a in zip(of_data, rate, angle, strict=True):
            if r and a:
                name = {'sgd': 'SGD', 'adamw': 'AdamW'}[block.question[6:]]
                parts.append(
                    f'{data}, {name}, over two decays and two batches: the best rate '
                    f'by ×{_factor(r)}, the best Δ by ×{_factor(a)}'
                )
        both = _apart(of_data, by_angle=True)
        if len(of_data) > 1 and both:
            parts.append(
                f'{data}, SGD and AdamW together: the best Δ by ×{_factor(both)}'
            )
    if not parts:
        return ''
    return (
        '**The best peaks of different settings differ, from the lowest to the '
        f'highest, by:** {"; ".join(parts)}.'
    )


def _apart(blocks: Sequence[Block], by_angle: bool) -> list[float]:
    """Logarithm of the highest best peak over the lowest, of each whole seed."""
    found = [_best(block, each, by_angle) for block in blocks for each in SETTINGS]
    seeds = set.intersection(*(set(best) for best in found))
    return [float(np.ptp([np.log(best[s][0]) for best in found])) for s in seeds]


def _factor(logarithms: Sequence[float]) -> str:
    over = interval_of(logarithms)
    text = number(float(np.exp(over.mean)), 2)
    if np.isfinite(over.low):
        low, high = (number(float(np.exp(end)), 2) for end in (over.low, over.high))
        text += f' ({low} to {high})'
    return text


# ------------------------------------------------------------------ cost


def cost_table(found: dict[str, list[float]]) -> str:
    """Time of an iteration, plain, with the monitor, and controlled."""
    rows = []
    for kind in KINDS:
        over = np.median(ratios(found, kind))
        rows.append((kind, f'{np.median(found[kind]):.2f}', f'{over:.3f}'))
    return table(('run', 'ms per iteration', 'over plain (median of turns)'), rows)
