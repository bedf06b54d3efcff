"""Weights of which each process holds a part, and which of them this process reads.

The inner products of a whole weight are the sums of those of its parts. So where
training is sharded each rank reads the parts that it holds, and the ranks' rows add up.
What several ranks hold alike is shared out among them.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from .sharing import share_out

__all__ = [
    'check_parts',
    'check_whole',
    'filter_span',
    'holds_several',
    'is_flattened',
    'is_part',
    'layers_read',
    'local_of',
    'sharded',
    'stepping',
    'whole_of',
]

Shapes = Mapping[str, Sequence[int]]

# Module, class, and what it is called. Nothing can be of a class whose module was
# never imported, so none of them is imported here.
_DTENSOR = tuple(
    (module, 'DTensor', 'fully_shard (DTensor parameters)')
    for module in ('torch.distributed.tensor', 'torch.distributed._tensor')
)
_ZERO = (
    'torch.distributed.optim.zero_redundancy_optimizer',
    'ZeroRedundancyOptimizer',
    'ZeroRedundancyOptimizer',
)
_FLAT = tuple(
    (module, 'FlatParameter', 'FullyShardedDataParallel')
    for module in (
        'torch.distributed.fsdp._flat_param',
        'torch.distributed.fsdp.flat_param',  # torch 2.1
    )
)
_SHARDING = (
    *_DTENSOR,
    ('torch.distributed.fsdp', 'FullyShardedDataParallel', 'FullyShardedDataParallel'),
    *_FLAT,
    _ZERO,
    ('deepspeed', 'DeepSpeedEngine', 'DeepSpeed'),
)


def sharded(things: Iterable[object]) -> str | None:
    """What shards parameters, modules or optimizers, if anything does.

    Then a rank has a part of each weight, or of its state.

    Args:
        things: Parameters, modules and optimizers.

    Returns:
        A name of what shards the first that is sharded; None if none is.

    Example:
        >>> sharded([torch.nn.Linear(2, 3)]) is None
        True
    """
    kinds = [(kind, row[2]) for row in _SHARDING for kind in _classes([row])]
    for thing in things:
        if is_flattened(thing):
            return 'FullyShardedDataParallel'
        if _is_of_deepspeed(thing):
            return 'DeepSpeed'
        for kind, words in kinds:
            if isinstance(thing, kind):
                return words
    return None


def is_part(thing: object) -> bool:
    """Whether a tensor is a DTensor, of which this rank holds a part.

    Example:
        >>> is_part(torch.ones(2))
        False
    """
    return isinstance(thing, _classes(_DTENSOR))


def is_flattened(thing: object) -> bool:
    """Whether a parameter is a slice of one of FullyShardedDataParallel's flat ones.

    With ``use_orig_params=True`` each rank's parameters are slices, of one dimension,
    of its part of the flat parameter; torch marks them.

    Example:
        >>> is_flattened(torch.nn.Parameter(torch.ones(2)))
        False
    """
    return isinstance(thing, Tensor) and getattr(thing, '_fsdp_flattened', False)


def holds_several(thing: object) -> bool:
    """Whether a parameter is a flat one of FullyShardedDataParallel's.

    Example:
        >>> holds_several(torch.nn.Parameter(torch.ones(2)))
        False
    """
    # Torch marks it and gives it no class of its own.
    return isinstance(thing, _classes(_FLAT))


def local_of(tensors: Sequence[Any]) -> list[Any]:
    """What this rank holds of each tensor; what is no DTensor is as it is.

    Args:
        tensors: Tensors, or None in the place of some.

    Example:
        >>> local_of([torch.ones(2), None])
        [tensor([1., 1.]), None]
    """
    kinds: Any = _classes(_DTENSOR)
    # What to_local() gives where autograd is off, in a sixth of its time.
    return [t._local_tensor if isinstance(t, kinds) else t for t in tensors]


def whole_of(tensor: Tensor) -> Tensor:
    """A tensor where it is whole; of a DTensor all ranks must ask.

    Example:
        >>> whole_of(torch.ones(2))
        tensor([1., 1.])
    """
    if not is_part(tensor):
        return tensor
    part: Any = tensor.detach()
    whole: Tensor = part.full_tensor()
    return whole


def stepping(optimizer: Optimizer) -> Optimizer:
    """The optimizer that makes this rank's steps and has their state.

    Args:
        optimizer: Any optimizer.

    Returns:
        The one within a ZeroRedundancyOptimizer; any other is as it is.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        >>> stepping(optimizer) is optimizer
        True
    """
    zero: Any = _classes([_ZERO])
    return optimizer.optim if isinstance(optimizer, zero) else optimizer


def check_parts(
    optimizer: Optimizer,
    named_params: Mapping[str, nn.Parameter],
    group: dist.ProcessGroup | None,
    shapes: Shapes | None = None,
) -> None:
    """Refuse parts that do not add up to the weights, or of which that is not known.

    Args:
        optimizer: What trains the weights.
        named_params: Name and parameter of each weight.
        group: The ranks whose rows are added up; None for this one alone.
        shapes: The shape that each weight has where it is whole.

    Raises:
        ValueError: It says why, and what would work.
    """
    params = list(named_params.values())
    if (by := sharded([optimizer, *params])) is None:
        return
    if any(map(_is_of_deepspeed, [optimizer, *params])):
        raise ValueError(
            'DeepSpeed is not measured: it steps on flat copies of its own of the '
            'weights, and no parameter has its gradient then; shard by fully_shard, '
            'or train by DistributedDataParallel'
        )
    if any(map(holds_several, params)):
        raise ValueError(
            'a flat parameter of FullyShardedDataParallel holds several weights in '
            'one: set use_orig_params=True, or shard by fully_shard'
        )
    if group is None:
        raise ValueError(
            f'{by}: each process has a part of the weights or of their state; give '
            'process_group, the ranks whose parts add up to the weights, on each of '
            'them'
        )
    if getattr(optimizer, '_overlap_with_ddp', False):
        raise ValueError(
            'ZeroRedundancyOptimizer makes no step of its own with '
            'overlap_with_ddp=True; set it to False'
        )
    for name, param in named_params.items():
        if is_flattened(param) and name not in (shapes or {}):
            raise ValueError(
                f'{name}: FullyShardedDataParallel hides the shape of the weight; '
                'give shapes, as they were before it was wrapped, or shard by '
                'fully_shard'
            )
        if is_part(param):
            _check_mesh(name, param, group)


def _check_mesh(name: str, param: Any, group: dist.ProcessGroup) -> None:
    mesh, ranks = param.device_mesh, dist.get_process_group_ranks(group)
    if sorted(mesh.mesh.flatten().tolist()) != sorted(ranks):
        raise ValueError(
            f'process_group: {name} lies on the ranks {mesh.mesh.flatten().tolist()}, '
            f'and the group has {ranks}'
        )
    if any(placement.is_partial() for placement in param.placements):
        raise ValueError(
            f'{name} is {param.placements}: the inner products of terms of a sum do '
            'not add up'
        )


def layers_read(
    optimizer: Optimizer, params: Sequence[nn.Parameter], group: dist.ProcessGroup
) -> list[int]:
    """The layers of which this rank reads something; all ranks together read all, once.

    Args:
        optimizer: What trains the weights.
        params: The parameter of each layer.
        group: The ranks.

    Returns:
        Their positions: a layer that is sharded, if this rank has a part of it; of the
        layers that several ranks hold alike, this rank's share.
    """
    own = stepping(optimizer)
    if own is not optimizer:  # each weight's state is with one rank
        mine = {id(param) for g in own.param_groups for param in g['params']}
        return [i for i, param in enumerate(params) if id(param) in mine]
    # Layers by the ranks that hold them alike, and which of these ranks this one is.
    alike: dict[Any, list[int]] = defaultdict(list)
    place: dict[Any, tuple[int, int]] = {}
    for layer, param in enumerate(params):
        key, place_of = _place(param, group)
        alike[key].append(layer)
        place[key] = place_of
    found = []
    for key, layers in alike.items():
        number, copies = place[key]
        sizes = [params[layer].numel() for layer in layers]
        # FullyShardedDataParallel's slices have other sizes on each rank.
        share = share_out(sizes, copies)[number] if copies > 1 else range(len(layers))
        found += [layers[i] for i in share]
    local = local_of(params)
    return sorted(layer for layer in found if local[layer].numel())


def check_whole(
    params: Sequence[nn.Parameter],
    shapes: Sequence[Sequence[int]],
    own: Sequence[int],
    group: dist.ProcessGroup,
) -> None:
    """Refuse shards of which the ranks together read too much or too little.

    All ranks must call it. Where nothing is sharded it has nothing to ask them.

    Args:
        params: The parameter of each layer.
        shapes: The shape of each whole layer.
        own: The layers that this rank reads.
        group: The ranks.

    Raises:
        ValueError: If what they read is not each weight once.
    """
    if sharded(params) is None:
        return
    local = local_of(params)
    read = torch.zeros(len(local), dtype=torch.int64, device=local[0].device)
    for layer in own:
        read[layer] = local[layer].numel()
    dist.all_reduce(read, group=group)
    for layer, elements in enumerate(read.tolist()):
        if elements != (size := math.prod(shapes[layer])):
            raise ValueError(
                f'a weight of shape {tuple(shapes[layer])} has {size} elements, and '
                f'the ranks of process_group have {elements}: each must be with one '
                'rank (NO_SHARD and HYBRID_SHARD of FullyShardedDataParallel hold '
                'them several times)'
            )


def _place(param: Any, group: dist.ProcessGroup) -> tuple[Any, tuple[int, int]]:
    """Who holds the same part of a weight: a key, this rank's number, and how many."""
    if is_flattened(param):
        return 'flat', (0, 1)
    if not is_part(param):
        return 'whole', (dist.get_rank(group), dist.get_world_size(group))
    mesh = param.device_mesh
    copied = [d for d, placed in enumerate(param.placements) if placed.is_replicate()]
    number, copies, at = 0, 1, mesh.get_coordinate()
    for dim in copied:
        size = mesh.mesh.shape[dim]
        number, copies = number * size + at[dim], copies * size
    return (id(mesh), *copied), (number, copies)


def filter_span(name: str, param: Any) -> tuple[int, int]:
    """Which slices of the first dimension this rank holds something of.

    Args:
        name: Name of the weight.
        param: Its parameter.

    Returns:
        The first one, and how many.

    Raises:
        ValueError: If that is not known.

    Example:
        >>> filter_span('conv', torch.nn.Parameter(torch.ones(8, 3)))
        (0, 8)
    """
    if is_flattened(param):
        raise ValueError(
            "granularity='filter': FullyShardedDataParallel cuts filters at any "
            "element; take granularity='layer', or shard by fully_shard"
        )
    [local] = local_of([param])
    first, held = 0, local.shape[0]
    if held == param.shape[0]:
        return first, held
    cut = [d for d, placed in enumerate(param.placements) if placed.is_shard(0)]
    if len(cut) > 1:
        raise ValueError(
            f"granularity='filter': the filters of {name} are dealt out by several "
            f"dimensions of the mesh, {param.placements}; take granularity='layer'"
        )
    # As torch.chunk cuts: equal parts, the last ones smaller or empty.
    mesh, size = param.device_mesh, param.shape[0]
    part = -(-size // mesh.mesh.shape[cut[0]])
    return min(part * mesh.get_coordinate()[cut[0]], size), held


def _is_of_deepspeed(thing: object) -> bool:
    """Whether DeepSpeed has made an optimizer, or has cut a parameter up."""
    return type(thing).__module__.partition('.')[0] == 'deepspeed' or (
        isinstance(thing, Tensor) and hasattr(thing, 'ds_id')
    )


def _classes(rows: Iterable[tuple[str, str, str]]) -> tuple[type, ...]:
    """The classes among some that have been imported."""
    modules = [(sys.modules.get(module), name) for module, name, _ in rows]
    return tuple(
        getattr(module, name) for module, name in modules if _has(module, name)
    )


def _has(module: Any, name: str) -> bool:
    return module is not None and hasattr(module, name)
