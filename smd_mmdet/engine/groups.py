"""Scale-invariant weights in parameter groups of their own, and back for checkpoints.

With SMDHook a checkpoint keeps the groups as MMEngine makes them, as long as the split
changed no setting. So a run can be resumed with SMDOptimWrapperConstructor that began
without it, and the other way round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

__all__ = [
    'Split',
    'join_checkpoint',
    'other_decay',
    'split_checkpoint',
    'split_groups',
]

# Lists of a scheduler's state with one entry per parameter group.
_PER_GROUP = ('base_values', '_last_value')


@dataclass(frozen=True)
class Split:
    """How parameter groups were split, so that a checkpoint can be put as it was.

    The groups as MMEngine makes them are called stock groups.

    Args:
        sizes: Number of parameters of each stock group.
        parents: For each group there is now, the index of the stock group that it is a
            part of.
        members: For each group there is now, the positions of its parameters in that
            stock group.
        invariant: For each group there is now, whether its parameters are
            scale-invariant.
    """

    sizes: tuple[int, ...]
    parents: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    invariant: tuple[bool, ...]


def split_groups(
    optimizer: Optimizer, scale_invariant: Sequence[nn.Parameter]
) -> Split:
    """Split each parameter group in place, before the first step.

    Args:
        optimizer: Any torch optimizer that has made no step yet.
        scale_invariant: Parameters to put into groups of their own. Each group is
            marked by its key ``scale_invariant``.

    Returns:
        How the groups were split.
    """
    chosen = {id(parameter) for parameter in scale_invariant}
    groups, parents, members = [], [], []
    sizes = tuple(len(group['params']) for group in optimizer.param_groups)
    for parent, group in enumerate(optimizer.param_groups):
        params = group['params']
        for invariant in (True, False):
            where = [i for i, p in enumerate(params) if (id(p) in chosen) is invariant]
            if where:
                own = {
                    'params': [params[i] for i in where],
                    'scale_invariant': invariant,
                }
                groups.append({**group, **own})
                parents.append(parent)
                members.append(tuple(where))
    optimizer.param_groups[:] = groups
    sorted_so = tuple(group['scale_invariant'] for group in groups)
    return Split(sizes, tuple(parents), tuple(members), sorted_so)


def join_checkpoint(checkpoint: dict, split: Split) -> None:
    """Put a checkpoint's groups as MMEngine makes them, if they differ in no setting.

    Args:
        checkpoint: The checkpoint that the Runner saves; it is changed in place.
        split: How the optimizer's groups were split.
    """
    groups = checkpoint.get('optimizer', {}).get('param_groups')
    lengths = [len(members) for members in split.members]
    if groups is None or [len(group['params']) for group in groups] != lengths:
        return
    stock: dict[int, dict] = {}
    for group, parent, members in zip(
        groups, split.parents, split.members, strict=True
    ):
        own = {k: v for k, v in group.items() if k not in ('params', 'scale_invariant')}
        whole = stock.setdefault(parent, {**own, 'params': [0] * split.sizes[parent]})
        if own != {k: v for k, v in whole.items() if k != 'params'}:
            return
        for position, index in zip(members, group['params'], strict=True):
            whole['params'][position] = index
    first = [split.parents.index(parent) for parent in range(len(split.sizes))]
    groups = [stock[parent] for parent in range(len(split.sizes))]
    _replace(checkpoint, groups, len(split.parents), first)


def split_checkpoint(checkpoint: dict, split: Split) -> None:
    """Put the groups of a checkpoint, as MMEngine makes them, as they are split now.

    Args:
        checkpoint: The checkpoint that the Runner loads; it is changed in place. One
            that is split already is left as it is.
        split: How the optimizer's groups were split.
    """
    groups = checkpoint.get('optimizer', {}).get('param_groups')
    if groups is None or tuple(len(g['params']) for g in groups) != split.sizes:
        return
    now = [
        {
            **groups[parent],
            'params': [groups[parent]['params'][i] for i in members],
            'scale_invariant': invariant,
        }
        for parent, members, invariant in zip(
            split.parents, split.members, split.invariant, strict=True
        )
    ]
    _replace(checkpoint, now, len(split.sizes), list(split.parents))


def other_decay(checkpoint: dict, groups: Sequence[dict]) -> str:
    """What to say where a checkpoint undoes the weight decay of the config.

    MMEngine takes the settings of an optimizer from the checkpoint, its weight decay
    among them.

    Args:
        checkpoint: The checkpoint that is loaded, with its groups split.
        groups: The groups of the optimizer, as the config sets them.

    Returns:
        A sentence; an empty text where the decays agree.
    """
    saved = checkpoint.get('optimizer', {}).get('param_groups') or []
    if len(saved) != len(groups):
        return ''
    pairs = {
        (now.get('weight_decay'), before.get('weight_decay'))
        for now, before in zip(groups, saved, strict=True)
        if now.get('scale_invariant')
    }
    changed = [(now, before) for now, before in sorted(pairs) if now != before]
    if not changed:
        return ''
    text = ', '.join(f'{before:.4g} instead of {now:.4g}' for now, before in changed)
    return (
        f'weight decay of scale-invariant weights is that of the checkpoint, {text}: '
        "a resumed run keeps its optimizer's settings"
    )


def _replace(
    checkpoint: dict, groups: list[dict], count: int, picked: list[int]
) -> None:
    """Put groups in the place of a checkpoint's, all at once or not at all.

    Args:
        checkpoint: The checkpoint; it is changed in place.
        groups: Its groups from now on.
        count: How many it has had.
        picked: For each new group, the index of the old one that it comes from.
    """
    # torch numbers the parameters in the order of the groups.
    order = [index for group in groups for index in group['params']]
    number = {old: new for new, old in enumerate(order)}
    for group in groups:
        group['params'] = [number[index] for index in group['params']]
    state = checkpoint['optimizer']['state']
    state = {number.get(index, index): value for index, value in state.items()}
    optimizer = {**checkpoint['optimizer'], 'state': state, 'param_groups': groups}
    changed: dict = {'optimizer': optimizer}
    if isinstance(schedulers := checkpoint.get('param_schedulers'), list):
        changed['param_schedulers'] = [
            _picked(scheduler, count, picked) for scheduler in schedulers
        ]
    checkpoint.update(changed)


def _picked(scheduler: dict, count: int, picked: list[int]) -> dict:
    """A scheduler with those lists picked from that have an entry for each group."""
    return {
        key: [value[j] for j in picked]
        if key in _PER_GROUP and isinstance(value, list) and len(value) == count
        else value
        for key, value in scheduler.items()
    }
