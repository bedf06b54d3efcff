"""Scale invariance by structure: the graph of one forward pass, walked."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from .findings import ScaleInvariance
from .order import judge_by_order
from .owners import Owners
from .sample_inputs import forward_model
from .undisturbed import kept_modules, kept_rng, observable, to_train_mode
from .walk import Walk

__all__ = ['find_scale_invariant', 'forward_on', 'judge', 'walk_graph']


def find_scale_invariant(
    model: nn.Module, inputs: Sequence | Tensor | None = None
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
        One entry per parameter, in the order of ``model.named_parameters()``. A
        parameter that several modules share comes once.

    Raises:
        ValueError: If the forward pass returns nothing that needs a gradient.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
        ... )
        >>> for entry in find_scale_invariant(model, torch.randn(2, 3, 8, 8)):
        ...     print(f'{entry.name:9}{entry.invariant!s:6}{entry.reason}')
        0.weight True  normalized by 1
        0.bias   False without effect: 1 removes it
        1.weight False it is a weight or bias of 1
        1.bias   False it is a weight or bias of 1
        3.weight False a bias is added to it (Convolution in 3)
        3.bias   False a bias is added to it (Convolution in 3)
    """
    if inputs is not None:
        return judge(model, walk_graph(model, forward_on(model, inputs)))
    if hasattr(model, 'data_preprocessor'):
        notes: list[str] = []
        forward = functools.partial(forward_model, model, notes)
        try:
            entries = judge(model, walk_graph(model, forward))
            return [_with_notes(entry, notes) for entry in entries]
        except RuntimeError:
            # A model without a loss of its own may take anything as inputs.
            if hasattr(model, 'loss'):
                raise
    with kept_rng(), kept_modules(model):
        to_train_mode(model)
        return judge_by_order(model)


def forward_on(model: nn.Module, inputs: Sequence | Tensor) -> Callable[[], object]:
    """A forward pass of a model.

    Args:
        model: The model.
        inputs: Positional arguments of the pass; a tensor is the only one.

    Returns:
        A function that runs the pass and returns the model's outputs.
    """
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return functools.partial(model, *arguments)


def walk_graph(
    model: nn.Module, forward: Callable[[], object], frozen: bool = False
) -> Walk:
    """Run one forward pass in train mode and walk its graph.

    Args:
        model: The model; everything the pass touches is restored.
        forward: Runs the pass; every tensor in what it returns counts as a loss.
        frozen: Whether frozen parameters are followed too.

    Returns:
        The walk, at its end.

    Raises:
        ValueError: If the forward pass returns nothing that needs a gradient.
    """
    with observable(model), torch.inference_mode(False), torch.enable_grad():
        trained = [p for p in model.parameters() if p.requires_grad]
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
        walk = Walk(model.parameters(), owners, trained)
        walk.run(outputs)
        return walk


def judge(model: nn.Module, walk: Walk) -> list[ScaleInvariance]:
    """Sum up what a walk has found.

    Args:
        model: The model whose graph was walked.
        walk: The walk, at its end.

    Returns:
        One entry per parameter, in the order of ``model.named_parameters()``.
    """
    return [walk.findings.verdict(name, p) for name, p in model.named_parameters()]


def _with_notes(entry: ScaleInvariance, notes: list[str]) -> ScaleInvariance:
    if not notes:
        return entry
    return dataclasses.replace(entry, reason=f'{entry.reason} ({"; ".join(notes)})')


def _tensors(output: object) -> Iterator[Tensor]:
    """Tensors in nested containers and in objects that have them as attributes."""
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
