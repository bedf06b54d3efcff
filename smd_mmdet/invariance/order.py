"""What the order of modules alone tells, where no forward pass can be observed."""

import itertools
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .findings import ScaleInvariance
from .undisturbed import is_batch_norm, is_norm, is_sync_bn

__all__ = ['judge_by_order', 'pairs_by_order']

_LINEAR_MAPS = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)


def pairs_by_order(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, str]]:
    """Linear maps that a norm comes next to among the children of a module.

    Args:
        model: The model.

    Yields:
        The linear map, the norm, and the dotted name of the norm.
    """
    names = {module: name for name, module in model.named_modules()}
    for parent in names:
        for module, after in itertools.pairwise(parent.children()):
            if isinstance(module, _LINEAR_MAPS) and is_norm(after):
                yield module, after, names[after]


def judge_by_order(model: nn.Module) -> list[ScaleInvariance]:
    """Tell for every parameter what the order of modules says of it.

    Args:
        model: The model, in the mode in which it is trained.

    Returns:
        One entry per parameter, in the order of ``model.named_parameters()``.
    """
    reasons_against: dict[int, str | None] = {}
    norms: dict[int, str] = {}
    for module, norm, name in pairs_by_order(model):
        weight = id(module.weight)
        if weight not in norms:
            norms[weight] = name
            reasons_against[weight] = _reason_against(module, norm, name)
    entries = []
    for name, parameter in model.named_parameters():
        reason = reasons_against.get(id(parameter), 'no norm follows it')
        if not parameter.requires_grad:
            reason = 'frozen: requires_grad=False'
        norm_name = norms[id(parameter)] if reason is None else None
        why = reason or f'normalized by {norm_name}'
        why += ' (judged by the order of modules alone: give inputs to observe)'
        entries.append(ScaleInvariance(name, reason is None, norm_name, why))
    return entries


def _reason_against(module: nn.Module, norm: nn.Module, name: str) -> str | None:
    """Why a norm does not remove the scale of the linear map before it."""
    features = getattr(module, 'out_channels', getattr(module, 'out_features', None))
    width = getattr(norm, 'num_features', getattr(norm, 'num_channels', None))
    if width is not None and width != features:
        return f'{name}, which comes next, has another width'
    if is_batch_norm(norm) and not norm.training and norm.running_mean is not None:
        return f'{name} uses fixed statistics (eval mode)'
    per_channel = isinstance(norm, _NormBase) or is_sync_bn(norm)
    if isinstance(norm, nn.GroupNorm):
        per_channel = norm.num_groups == norm.num_channels
    if module.bias is not None and not per_channel:
        return f'its bias survives {name}, which normalizes several channels together'
    return None
