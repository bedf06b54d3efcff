"""What figures and checks show, and what the terms mean, in words."""

from smd_mmdet.theory import THEORIES

__all__ = [
    'CHECKS',
    'FIGURES',
    'TERMS',
    'figure_words',
    'plural',
    'relaxation',
    'terms',
    'transient_law',
]

# Terms in plain words, in the order in which a reader of the page meets them. They are
# those of SGD.
TERMS = {
    'Δ': 'the angle a weight turns through in one iteration, its angular update',
    'equilibrium': 'gradients lengthen a weight and weight decay shortens it; where '
    'both balance, the weight keeps its length and turns by the same angle each '
    'iteration',
    'Δ*': 'that angle, √(2λη/(1+α)) under SGD, which weight decay λ, learning rate η '
    'and momentum α alone decide',
    'w*': 'the length ‖w‖ of the weight there',
    'stage': 'a stretch of training in which learning rate, weight decay and momentum '
    'hold still',
    'h̃': 'the squared gradient ‖g̃‖² that the layer would have if its weight had length '
    '1, and with momentum how far it agrees with the steps before',
    'L': 'the mean of h̃; it sets w*',
}
# What Δ* is under the other optimizers, by the key of their theory.
_DECIDE = 'which weight decay λ, learning rate η and β₁ alone decide'
_ANGLES = {
    'nesterov': 'that angle, √(2λη(1+2α−2α³)/(1+α)) under Nesterov momentum α if '
    'gradients are uncorrelated in time, with weight decay λ and learning rate η',
    'adamw': f'that angle, √(2ηλ(1−β₁)/(1+β₁)) under AdamW, {_DECIDE}',
    'nadamw': 'that angle, √(2ηλ(1−β₁)²[(1+β₁)²+β₁⁴/(1−β₁²)]) under NAdam with '
    f'decoupled decay, {_DECIDE}',
    'lion': 'that angle, about √(πηλ[(1−β₁)²+β₁²(1−β₂)/(1+β₂)]) under Lion',
    'lamb': 'that angle, under LAMB the learning rate, whatever the weight decay',
    'adam': 'that angle, which differs from layer to layer under Adam with L2 decay',
}
_UPDATE = (
    "the squared length of the optimizer's update before rate and decay, under AdamW "
    '‖m̂/√v̂‖²; its mean sets w*'
)
_UNIT = (
    'the squared gradient that the layer would have if its weight had length 1; L is '
    'its mean'
)


def terms(theory: str) -> dict[str, str]:
    """The terms that a page uses, in plain words.

    Args:
        theory: Key of the optimizer's theory, or 'none'.

    Example:
        >>> list(terms('sgd')) == list(TERMS)
        True
        >>> list(terms('adamw'))
        ['Δ', 'equilibrium', 'Δ*', 'w*', 'stage', 'U']
        >>> list(terms('none'))
        ['Δ', 'equilibrium', 'stage', '‖g̃‖²']
    """
    law = THEORIES.get(theory)
    if law is None:
        return {name: TERMS[name] for name in ('Δ', 'equilibrium', 'stage')} | {
            '‖g̃‖²': _UNIT
        }
    told = TERMS | ({'Δ*': _ANGLES[theory]} if theory in _ANGLES else {})
    if law.drive == 'unit_h':
        return told
    del told['h̃'], told['L']
    if law.norm_law:
        return told | {'U': _UPDATE}
    del told['w*']
    return told | {'‖g̃‖²': _UNIT}


def transient_law(theory: str) -> str:
    """What is 1 at every moment: Δ/Δ*·(‖w‖/w*)^(q/2).

    Args:
        theory: Key of the optimizer's theory, or 'none'.

    Example:
        >>> transient_law('sgd'), transient_law('adamw')
        ('Δ/Δ*·(‖w‖/w*)²', 'Δ/Δ*·‖w‖/w*')
    """
    law = THEORIES.get(theory)
    return 'Δ/Δ*·' + ('‖w‖/w*' if law and law.exponent == 2 else '(‖w‖/w*)²')


def relaxation(theory: str, clipped: bool = False) -> str:
    """How a distance from equilibrium is lost: the power of the norm, and its rate.

    Args:
        theory: Key of the optimizer's theory.
        clipped: Whether gradients were clipped.

    Returns:
        A few words; empty where no law of the norm is known.

    Example:
        >>> relaxation('sgd'), relaxation('adamw', clipped=True)
        ('4λη/(1−α) in ‖w‖⁴', '2λη in ‖w‖²')
        >>> relaxation('sgd', clipped=True)
        '(4−p)λη/(1−α) in ‖w‖^(4−p), with the p of clipping'
    """
    law = THEORIES.get(theory)
    if law is None or not law.norm_law:
        return ''
    rate = 'λη' if law.exponent == 2 else 'λη/(1−α)'
    if clipped and law.clips:
        power = f'({law.exponent}−p)'
        return f'{power}{rate} in ‖w‖^{power}, with the p of clipping'
    return f'{law.exponent}{rate} in ‖w‖{"²" if law.exponent == 2 else "⁴"}'


def figure_words(theory: str, clipped: bool = False) -> dict[str, tuple[str, str]]:
    """Title and explanation of each figure of a run.

    Args:
        theory: Key of the optimizer's theory, or 'none'.
        clipped: Whether gradients were clipped.

    Example:
        >>> figure_words('sgd') == FIGURES
        True
        >>> print(figure_words('adamw')['weight_norm'][1])
        Updates lengthen the weight, decay shortens it; w* is where they balance, and
        moves with U.
    """
    law = THEORIES.get(theory)
    if theory == 'sgd' and not clipped:
        return FIGURES
    told = dict(FIGURES)
    way = relaxation(theory, clipped)
    told['distance'] = (
        FIGURES['distance'][0],
        f'How far ‖w‖² is from w*², beside the decay expected ({way}); the floor is '
        'noise.',
    )
    if law is not None and law.drive == 'unit_h':
        return told
    if law is not None and law.norm_law:
        return told | _OF_UPDATES
    return told | _WITHOUT_LAW


# Title and explanation of each figure.
FIGURES = {
    'equilibrium': (
        'Who is in equilibrium',
        'Δ/Δ* of every layer over the run: colourless where it turns as predicted, '
        'blue where too slowly (its norm is too large), red where too fast.',
    ),
    'angular_update': (
        'Angular update of every layer',
        'Δ of each layer, and Δ*, to which all of them come, whatever the layer.',
    ),
    'control': (
        'Wanted angular update',
        'Δ over the one that a controller wanted, 1 where it is met (within 10 % in '
        'the green band of the figure), and what it has multiplied the weight by since '
        'the start. That changes nothing that the network computes.',
    ),
    'weight_norm': (
        'Weight norm',
        'Gradients lengthen the weight, decay shortens it; w* is where they balance, '
        'and moves with the unit gradient.',
    ),
    'unit_gradient': (
        'Unit gradient',
        'h̃ with momentum, ‖g̃‖² without: window means, and L, the mean over 200 '
        'iterations. Where L drifts, w* goes with it.',
    ),
    'clipping': (
        'Clipping',
        'The share of steps whose gradients were clipped, and what gradients were '
        'multiplied by, on average over each window. A clipped gradient does not grow '
        'as the weights shrink.',
    ),
    'cosine': (
        'Cosine of weight and gradient',
        'Zero for a scale-invariant weight (Lemma 1), up to rounding; above 0.02 the '
        'weight is not scale-invariant, or no longer.',
    ),
    'distance': (
        'Distance to equilibrium',
        'How far ‖w‖² is from w*², beside the decay expected (4λη/(1−α) in ‖w‖⁴) and '
        'the slower one that the theorem guarantees; the floor is noise.',
    ),
}

# The same of an optimizer whose update has a size of its own.
_OF_UPDATES = {
    'weight_norm': (
        'Weight norm',
        'Updates lengthen the weight, decay shortens it; w* is where they balance, and '
        'moves with U.',
    ),
    'unit_gradient': (
        'Size of the update',
        'U: window means, and the mean over 200 iterations. Where it drifts, w* goes '
        'with it.',
    ),
}
# And of one without a law of the norm.
_WITHOUT_LAW = {
    'weight_norm': ('Weight norm', 'The length of the weight.'),
    'unit_gradient': (
        'Unit gradient',
        '‖g̃‖²: window means, and L, the mean over 200 iterations.',
    ),
}

# Title and meaning of each check.
CHECKS = {
    'small_step': ('Small step', 'λη is small enough for the theorems.'),
    'bounded_noise': ('Bounded noise', 'The unit gradient has a variance V.'),
    'slow_drift': (
        'Slow drift',
        'L moves so slowly that some bound V on the noise leaves the theorems a '
        'statement.',
    ),
    'lower_bound_strict': (
        'Lower bound, every iteration',
        'The unit gradient never comes too near 0.',
    ),
    'lower_bound_windowed': (
        'Lower bound, 200-iteration means',
        'The unit gradient does not come too near 0 on average.',
    ),
    'update_along_weight': (
        'Updates along the weight',
        'Under AdamW: ⟨w, m̂/√v̂⟩ is what decay and β₁ alone make it; more acts like '
        'weight decay.',
    ),
    'lemma_1': (
        'Lemma 1',
        'Weight and gradient are orthogonal, up to rounding that averages out.',
    ),
    'transient_law': (
        'Transient law',
        'Δ/Δ*·(‖w‖/w*)² (of AdamW Δ/Δ*·‖w‖/w*) is 1 at every moment, in equilibrium '
        'or not.',
    ),
    'linear_convergence': (
        'Linear convergence',
        '‖w‖⁴ relaxes at 4λη/(1−α) per iteration, ‖w‖² of AdamW at 2λη, within 7 %.',
    ),
    'weight_norm': ('Norm at equilibrium', '‖w‖ comes to w*.'),
    'weight_norm_spread': ('Spread of the norm', '‖w‖² stays near w*².'),
    'angular_update': ('Angle at equilibrium', 'Δ comes to Δ*.'),
    'angular_update_probability': (
        'Spread of the angle',
        'How seldom Δ is far from Δ*: a figure, as Theorem 3 leaves a constant open.',
    ),
    'wanted_angular_update': (
        'Wanted angle',
        'Where a controller sets Δ: it is within 10 % of the wanted in 90 % of the '
        'windows after the first control.',
    ),
    'corollary_3_1': (
        'Corollary 3.1',
        'After a rate drop the norm needs at least the iterations that decay alone '
        "takes; the paper's estimate is told beside.",
    ),
}


def plural(number: int, noun: str) -> str:
    """A number of things: '1 layer', '2 layers'."""
    return f'{number} {noun}{"" if number == 1 else "s"}'
