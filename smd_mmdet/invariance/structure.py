"""Scale invariance by structure: one forward pass observed, or none."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .owners import Owners
from .undisturbed import (
    is_batch_norm,
    is_norm,
    is_sync_bn,
    kept_modules,
    kept_rng,
    observable,
    to_train_mode,
)
from .walk import Walk


@dataclasses.dataclass(frozen=True)
class ScaleInvariance:
    """What the structure of a model says about one parameter.

    Args:
        name: Dotted name of the parameter.
        invariant: Whether the loss does not depend on its scale.
        norm: Dotted name of the module that normalizes it. None if it is not
            invariant, or invariant by construction (weight standardization), or
            normalized by a function that belongs to no module.
        reason: One sentence.
    """

    name: str
    invariant: bool
    norm: str | None
    reason: str


def _tensors(output) -> Iterator[Tensor]:
    """Tensors in nested containers and in objects that offer their items."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple, set)):
        for value in output:
            yield from _tensors(value)
    elif hasattr(output, '__dict__') and not isinstance(output, (nn.Module, type)):
        for value in vars(output).values():
            if isinstance(value, (Tensor, Mapping, list, tuple)):
                yield from _tensors(value)


def _unique_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _entry(name: str, parameter: nn.Parameter, walk: Walk) -> ScaleInvariance:
    key = id(parameter)

    def no(reason: str) -> ScaleInvariance:
        return ScaleInvariance(name, False, None, reason)

    if key not in walk.trained:
        return no('frozen: requires_grad=False')
    if key not in walk.reached:
        return no('not reached: no output of the forward pass depends on it')
    if key in walk.failed:
        return no(walk.failed[key])
    if key in walk.norms:
        return _normalized_entry(name, list(walk.norms[key]))
    if key in walk.constructed:
        place = walk.constructed[key]
        return ScaleInvariance(name, True, None, f'normalized by construction: {place}')
    if key in walk.cancelled:
        return no(f'without effect: {walk.cancelled[key]} removes it')
    return no('without effect on the output')


def _normalized_entry(name: str, norms: list[str]) -> ScaleInvariance:
    modules = [norm for norm in norms if not norm.startswith('\0')]
    named = [norm.removeprefix('\0') for norm in norms]
    reason = f'normalized by {named[0]}'
    if len(named) > 1:
        reason += f' and {len(named) - 1} more: {", ".join(named[1:4])}'
        reason += ', ...' if len(named) > 4 else ''
    return ScaleInvariance(name, True, modules[0] if modules else None, reason)


def find_scale_invariant(
    model: nn.Module, inputs: Sequence | None = None
) -> list[ScaleInvariance]:
    """Tell for every parameter whether the loss depends on its scale.

    One forward pass is run in train mode, as training would run it (``norm_eval``
    and frozen stages included), and its graph is read. Everything the pass touches
    is restored.

    Args:
        model: The model, without a DDP wrapper.
        inputs: Positional arguments of one forward pass; every tensor in what it
            returns counts as a loss. None: a model of MMEngine (a detector, a
            classifier) gets small random images and its own losses; any other
            module, and one that takes no images, is judged by the order of its
            children alone, and the reason says so.

    Returns:
        One entry per parameter, in the order of ``model.named_parameters()``;
        a shared parameter comes once.

    Raises:
        ValueError: If the forward pass returns nothing that needs a gradient.
    """
    if inputs is not None:
        inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        return _observe(model, lambda: model(*inputs))
    if hasattr(model, 'data_preprocessor'):
        from .sample_inputs import forward_model

        notes: list[str] = []
        try:
            entries = _observe(model, lambda: forward_model(model, notes))
            return [_with_notes(entry, notes) for entry in entries]
        except RuntimeError:
            # A model without a loss of its own may take anything as inputs.
            if hasattr(model, 'loss'):
                raise
    with kept_rng(), kept_modules(model):
        to_train_mode(model)
        return judge_by_order(model)


def _with_notes(entry: ScaleInvariance, notes: list[str]) -> ScaleInvariance:
    if not notes:
        return entry
    return dataclasses.replace(entry, reason=f'{entry.reason} ({"; ".join(notes)})')


def _observe(model: nn.Module, forward: Callable) -> list[ScaleInvariance]:
    return judge(model, walk_graph(model, forward))


def judge(model: nn.Module, walk: Walk) -> list[ScaleInvariance]:
    """What a walk that has ended says of each parameter."""
    parameters = _unique_parameters(model)
    return [_entry(name, p, walk) for name, p in parameters.items()]


def walk_graph(model: nn.Module, forward: Callable, frozen: bool = False) -> Walk:
    """Run one forward pass in train mode and walk its graph.

    Args:
        model: The model; everything the pass touches is restored.
        forward: Runs the pass; every tensor in what it returns counts as a loss.
        frozen: Follow frozen parameters too.

    Returns:
        The walk, at its end.

    Raises:
        ValueError: If the forward pass returns nothing that needs a gradient.
    """
    with observable(model), torch.inference_mode(False), torch.enable_grad():
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        if frozen:
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
        owners = Owners(model)
        owners.watch()
        outputs = [t for t in _tensors(forward()) if t.requires_grad]
        if not outputs and any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                'the forward pass returned no tensor that needs a gradient'
            )
        walk = Walk(_unique_parameters(model).values(), owners)
        walk.trained = trained
        walk.run(outputs)
        return walk


def pairs_by_order(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, str]]:
    """Linear maps, the norm that comes next among the children, and its name."""
    names = {module: name for name, module in model.named_modules()}
    for parent in names:
        for module, after in itertools.pairwise(parent.children()):
            if _is_linear_map(module) and is_norm(after):
                yield module, after, names[after]


def judge_by_order(model: nn.Module) -> list[ScaleInvariance]:
    """What the order of modules alone says of each parameter."""
    found: dict[int, tuple[bool, str | None, str]] = {}
    for module, norm, name in pairs_by_order(model):
        found.setdefault(id(module.weight), _judge_pair(module, norm, name))
    entries = []
    for name, parameter in _unique_parameters(model).items():
        default = (False, None, 'no norm follows it')
        invariant, norm_name, reason = found.get(id(parameter), default)
        if not parameter.requires_grad:
            invariant, norm_name, reason = False, None, 'frozen: requires_grad=False'
        reason += ' (judged by the order of modules alone: give inputs to observe)'
        entries.append(ScaleInvariance(name, invariant, norm_name, reason))
    return entries


def _is_linear_map(module: nn.Module) -> bool:
    convolution = nn.modules.conv._ConvNd
    return isinstance(module, (convolution, nn.Linear, nn.Bilinear))


def _judge_pair(module, norm, name: str) -> tuple[bool, str | None, str]:
    features = getattr(module, 'out_channels', getattr(module, 'out_features', None))
    width = getattr(norm, 'num_features', getattr(norm, 'num_channels', None))
    if width is not None and width != features:
        return False, None, f'{name}, which comes next, has another width'
    per_channel = isinstance(norm, _NormBase) or is_sync_bn(norm)
    if isinstance(norm, nn.GroupNorm):
        per_channel = norm.num_groups == norm.num_channels
    fixed = is_batch_norm(norm) and not norm.training and norm.running_mean is not None
    if fixed:
        return False, None, f'{name} uses fixed statistics (eval mode)'
    if module.bias is not None and not per_channel:
        return (
            False,
            None,
            f'its bias survives {name}, which normalizes several channels together',
        )
    return True, name, f'normalized by {name}'
