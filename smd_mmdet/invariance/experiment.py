"""A copy of the model, in float64 and with negligible ε, to be measured on."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .arithmetic import (
    Arithmetic,
    Precision,
    default_dtype,
    single_precision_boxes,
)
from .replica import copied
from .undisturbed import (
    is_batch_norm,
    kept_modules,
    make_observable,
    no_checkpointing,
    not_compiled,
    seed_all,
    to_train_mode,
)

__all__ = ['Experiment']


def _move_to_generic_point(model: nn.Module, seed: int) -> None:
    """Move parameters away from values that are special.

    A bias of 0 makes its convolution look invariant under a group norm, a norm
    weight of 0 hides the whole branch, and the invariance that is asked for is that
    of the function, not of one point.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor, scale: float) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return (drawn * scale).to(tensor)

    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.numel() or not parameter.is_floating_point():
                continue
            value = parameter.flatten()[0]
            if not bool((parameter == value).all()):
                continue
            scale = 0.1 * abs(float(value)) or (0.1 if parameter.dim() < 2 else 0.01)
            parameter.add_(noise(parameter, scale))
        for module in model.modules():
            mean = getattr(module, 'running_mean', None)
            if is_batch_norm(module) and isinstance(mean, Tensor):
                mean.add_(noise(mean, 0.1))


class Experiment:
    """Losses and gradients of a copy of a model, with all randomness fixed.

    Args:
        model: The model; it is not touched.
        loss_fn: Takes a model, returns its scalar loss.
        names: Names of the parameters to measure.
        seed: Seed of all random generators.
        precision: The precision to compute in.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[nn.Module], Tensor],
        names: Iterable[str],
        seed: int,
        precision: Precision,
    ) -> None:
        self._loss_fn = loss_fn
        self._seed = seed
        self.precision = precision
        self.model = copied(model)
        if precision.dtype == torch.float64:
            self.model.double()
        to_train_mode(self.model)
        make_observable(self.model)
        _move_to_generic_point(self.model, seed)
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.parameters = {name: parameters[name] for name in names}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        # Takes the place of the norms' ε; None leaves what is configured.
        self.epsilon: float | None = precision.epsilon

    @contextlib.contextmanager
    def _loss(self) -> Iterator[Tensor]:
        """The loss, with its graph alive; buffers are put back at the end."""
        double = self.precision.dtype == torch.float64
        with contextlib.ExitStack() as stack:
            stack.enter_context(kept_modules(self.model))
            stack.enter_context(no_checkpointing())
            stack.enter_context(not_compiled())
            if double:
                stack.enter_context(default_dtype(torch.float64))
                stack.enter_context(single_precision_boxes())
            seed_all(self._seed)
            with Arithmetic(self.precision, self.epsilon):
                loss = self._loss_fn(self.model)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ValueError('loss_fn must return one scalar tensor')
            yield loss.reshape(())

    def gradients(self) -> tuple[float, dict[str, Tensor]]:
        """The loss and the gradient of every parameter that has one."""
        parameters = list(self.parameters.values())
        with torch.enable_grad(), self._loss() as loss:
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        names = zip(self.parameters, found, strict=True)
        return float(loss.detach()), {n: g for n, g in names if g is not None}

    def scaled_loss(self, factors: Mapping[str, float]) -> float:
        """The loss with some parameters multiplied by factors, by name.

        The factors are powers of two, so that dividing by them restores every bit.
        """
        self._multiply(factors)
        try:
            # The graph is made because by it an ε is told from any other constant.
            with torch.enable_grad(), self._loss() as loss:
                return float(loss.detach())
        finally:
            self._multiply({name: 1 / factor for name, factor in factors.items()})

    def _multiply(self, factors: Mapping[str, float]) -> None:
        with torch.no_grad():
            for name, factor in factors.items():
                self.parameters[name].mul_(factor)
