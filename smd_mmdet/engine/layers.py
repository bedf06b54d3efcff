"""Which weights of a model to measure: those found, and what the user says."""

import fnmatch
from collections.abc import Callable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.optim import Optimizer

from smd_mmdet._text import did_you_mean, first_line
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.settings import check_patterns
from smd_mmdet.invariance import ScaleInvariance, find_scale_invariant
from smd_mmdet.monitor.readers import groups_of

__all__ = [
    'FROZEN_ADVICE',
    'choose_layers',
    'filterwise',
    'find_layers',
    'layers_to_measure',
    'nothing_found',
    'parameters_of',
]

FROZEN_ADVICE = """\
weights before a normalization layer are scale-invariant only while that layer uses \
the statistics of the batch or of the sample. To have some, add to the config:
    norm_cfg = dict(type='SyncBN', requires_grad=True)  # or 'GN' with num_groups=32
    model = dict(
        backbone=dict(norm_cfg=norm_cfg, norm_eval=False, frozen_stages=-1),
        neck=dict(norm_cfg=norm_cfg))
To measure weights all the same, without theory, name them: \
SMDHook(include=['backbone']); so are those that another hook unfreezes later."""

_UNOBSERVED = 'the forward pass could not be observed'


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model, by the names that they have in one that is whole."""
    wrapped = '_fsdp_wrapped_module.'
    return {
        name.replace(wrapped, ''): param for name, param in model.named_parameters()
    }


def find_layers(model: nn.Module) -> list[ScaleInvariance]:
    """What the structure of a model says about each parameter.

    Args:
        model: The model, without a DDP wrapper.

    Returns:
        An entry for every parameter. If the forward pass of the model cannot be
        observed, no parameter is judged scale-invariant, and the reason says so.
    """
    try:
        return find_scale_invariant(model)
    except Exception as fault:
        said = f'{type(fault).__name__}: {first_line(fault)}'
        reason = f'{_UNOBSERVED}: {said}'
        return [
            ScaleInvariance(name, False, None, reason)
            for name, _ in model.named_parameters()
        ]


def choose_layers(
    entries: Sequence[ScaleInvariance],
    include: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
) -> list[ScaleInvariance]:
    """The found scale-invariant weights, with the user's changes.

    Args:
        entries: What was found for every parameter.
        include: Names or patterns of parameters to choose as well. A name also
            stands for everything below it.
        exclude: Names or patterns of parameters not to choose.

    Returns:
        The entries chosen, in the order of the model.

    Raises:
        SettingError: If a pattern matches no parameter.
    """
    names = [entry.name for entry in entries]
    wanted = {entry.name for entry in entries if entry.invariant}
    wanted |= _matching('include', include, names)
    wanted -= _matching('exclude', exclude, names)
    return [entry for entry in entries if entry.name in wanted]


def layers_to_measure(
    model: nn.Module,
    optimizer: Optimizer,
    entries: Sequence[ScaleInvariance],
    include: Sequence[str] | str | None,
    exclude: Sequence[str] | str | None,
    tell: Callable[[str], object],
) -> list[ScaleInvariance]:
    """The weights of a run that SMDHook measures.

    Args:
        model: The model, without a DDP wrapper.
        optimizer: What trains it.
        entries: What was found for every parameter.
        include: Names or patterns of parameters to choose as well. Of the frozen ones
            these are measured, which something may unfreeze later.
        exclude: Names or patterns of parameters not to choose.
        tell: Takes a line about weights that are not measured, or not yet.

    Returns:
        Their entries, in the order of the model.

    Raises:
        SettingError: If a pattern matches no parameter, or nothing is to be measured.
        RuntimeError: If nothing is, and the model could not be looked at.
    """
    parameters = parameters_of(model)
    asked_for = _matching('include', include, [entry.name for entry in entries])
    chosen = choose_layers(entries, include, exclude)
    present = [entry for entry in chosen if entry.name in parameters]
    found = groups_of(optimizer, [parameters[entry.name] for entry in present])
    later, strange, kept = [], [], []
    for entry, group in zip(present, found, strict=True):
        trained = parameters[entry.name].requires_grad
        if not trained and entry.name not in asked_for:
            continue
        if group is None:
            strange.append(entry.name)
            continue
        kept.append(entry)
        if not trained:
            later.append(entry.name)
    not_trained = f'{_first(strange)} not among the parameters of the optimizer'
    if not kept and strange:
        raise SettingError(f'SMDHook: no weight to measure: {not_trained}')
    if not kept:
        raise nothing_found('SMDHook: no weight to measure', entries)
    if strange:
        tell(f'smd: {not_trained}: not measured, not even if added later')
    if later:
        tell(f'smd: {_first(later)} frozen: measured from the step on that trains it')
    return kept


def nothing_found(text: str, entries: Sequence[ScaleInvariance]) -> Exception:
    """The error where a model has no scale-invariant weight.

    Args:
        text: What the user misses.
        entries: What was found for every parameter.

    Returns:
        A fault where the model could not be looked at, and else a setting to change.
    """
    for entry in entries:
        if entry.reason.startswith(_UNOBSERVED):
            return RuntimeError(f'{text}: {entry.reason}')
    return SettingError(f'{text}: {FROZEN_ADVICE}')


def _first(names: Sequence[str]) -> str:
    """The first of some names, how many more there are, and the verb."""
    if len(names) < 2:
        return f'{"".join(names)} is'
    return f'{names[0]} and {len(names) - 1} more are'


def filterwise(model: nn.Module, entries: Sequence[ScaleInvariance]) -> list[str]:
    """The weights of which each output channel is scale-invariant by itself.

    Batch norm normalizes every channel alone, so the filters of a weight before it are
    scale-invariant one by one. They are the slices of the weight's first dimension,
    but not in a transposed convolution, where that is the dimension of the input.

    Args:
        model: The model, without a DDP wrapper.
        entries: The weights to look at.

    Returns:
        The names of those weights.
    """
    transposed = {
        f'{name}.weight'
        for name, module in model.named_modules()
        if isinstance(module, _ConvTransposeNd)
    }
    return [
        entry.name
        for entry in entries
        if entry.norm is not None
        and isinstance(model.get_submodule(entry.norm), _BatchNorm)
        and entry.name not in transposed
    ]


def _matching(
    key: str, patterns: Sequence[str] | str | None, names: list[str]
) -> set[str]:
    found: set[str] = set()
    for pattern in check_patterns(key, patterns):
        hits = fnmatch.filter(names, pattern) + [
            name for name in names if name.startswith(f'{pattern}.')
        ]
        if not hits:
            hint = did_you_mean(pattern, names)
            raise SettingError(
                f'{key}: {pattern!r} matches no parameter' + f'; {hint}' * bool(hint)
            )
        found.update(hits)
    return found
