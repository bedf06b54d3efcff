"""What figures and checks show, and what the terms mean, in words."""

__all__ = ['CHECKS', 'FIGURES', 'TERMS', 'plural']

# Terms in plain words, in the order in which a reader of the page meets them.
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
    'corollary_3_1': (
        'Corollary 3.1',
        'After a rate drop the norm needs at least the iterations that decay alone '
        "takes; the paper's estimate is told beside.",
    ),
}


def plural(number: int, noun: str) -> str:
    """A number of things: '1 layer', '2 layers'."""
    return f'{number} {noun}{"" if number == 1 else "s"}'
