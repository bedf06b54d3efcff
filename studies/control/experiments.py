"""The list of what is trained: blocks of small runs, and a few detectors."""

from ..fall.experiments import DATA as REAL
from ..reproduction.experiments import DATA as DRAWN
from ..reproduction.experiments import Data, Experiment

__all__ = ['BLOCKS', 'DATA', 'DETECTORS', 'EXPERIMENTS', 'SEEDS']

DATA: dict[str, Data] = {**DRAWN, **REAL}
SEEDS = 3
# The key in DATA of each data set of the small runs.
SETS = {'nuclei': 'nuclei_crops', 'shapes': 'shapes_cls'}
TITLES = {
    'decay': 'over weight decay',
    'replay': 'replay of a run',
    'schedule': 'schedules',
    'sweep-sgd': 'the best rate and the best Δ, SGD',
    'sweep-adamw': 'the best rate and the best Δ, AdamW',
}
# The questions in the order of their importance, of which each data set's are ranks.
RANKS = ({'decay', 'replay'}, {'schedule'}, {'sweep-sgd', 'sweep-adamw'})


def _block(question: str, data: str) -> Experiment:
    """All runs of a question on a data set: one process for each seed."""
    (rank,) = (number for number, some in enumerate(RANKS) if question in some)
    return Experiment(
        name=f'{question}_{data}',
        config='studies/control/runs.py',
        group=data,
        title=TITLES[question],
        rank=2 * rank + list(SETS).index(data),
        seeds=SEEDS,
        data=SETS[data],
        quick=rank < 2,
        module='studies.control.training',
    )


BLOCKS = [_block(question, data) for data in SETS for question in TITLES]
COST = Experiment(
    name='cost',
    config='studies/control/cost.py',
    group='cost',
    title='time of an iteration',
    rank=2,
    data='',
    quick=True,
    module='studies.control.cost',
)


def _detector(name: str, config: str, title: str, decay: float = 1.0) -> Experiment:
    options = {}
    if decay != 1:
        key = 'optim_wrapper.paramwise_cfg.scale_invariant_decay_mult'
        options[key] = 150.0 * decay
    return Experiment(
        name=name,
        config=f'configs/shapes/retinanet_r18_fpn_bn_{config}_shapes.py',
        group='RetinaNet, BN',
        title=title,
        rank=9,
        options=options,
    )


DETECTORS = [
    _detector('retinanet_drop_plain', '3stage', 'three stages, plain'),
    _detector('retinanet_drop_rescaled', '3stage-rescaled', 'three stages, rescaled'),
    _detector(
        'retinanet_drop_controlled', '3stage-controlled', 'three stages, controlled'
    ),
    *(
        _detector(
            f'retinanet_decay_{decay:g}{end}',
            f'fixed{end}',
            f'decay ×{decay:g}, {"controlled" if end else "plain"}',
            decay,
        )
        for decay in (0.25, 1.0, 4.0)
        for end in ('', '-controlled')
    ),
]
EXPERIMENTS = [*BLOCKS, COST, *DETECTORS]
