"""Facts about a run that are kept beside its records."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmengine.dist import get_world_size
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from smd_mmdet.invariance import ScaleInvariance
from smd_mmdet.monitor.monitor import SphericalMotionMonitor
from smd_mmdet.records import read_metadata

from .clipping import clipping_of

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['output_variances', 'run_metadata']

PACKAGES = ('smd_mmdet', 'torch', 'mmengine', 'mmcv', 'mmdet', 'numpy', 'pyarrow')


def run_metadata(
    runner: Runner,
    model: nn.Module,
    entries: Sequence[ScaleInvariance],
    monitor: SphericalMotionMonitor,
) -> dict:
    """Everything known of a run when it begins, as plain values.

    Args:
        runner: The run.
        model: Its model, without a DDP wrapper.
        entries: The measured weights.
        monitor: What measures them.

    Returns:
        The metadata as docs/records.md lists them.
    """
    return {
        'theory': monitor.theory,
        'clipping': clipping_of(runner.optim_wrapper),
        'window': monitor.window,
        'max_iters': runner.max_iters,
        'processes': get_world_size(),
        'started': _started(runner),
        'layers': {entry.name: _layer(model, entry) for entry in entries},
        'config': runner.cfg.pretty_text,
        'packages': {package: _version(package) for package in PACKAGES},
    }


def _started(runner: Runner) -> str | None:
    """When the run began: the name of its first log folder; None if it is not known."""
    if runner.iter > 0:
        return read_metadata(runner.work_dir).get('started')
    return runner.timestamp


def output_variances(
    model: nn.Module, entries: Sequence[ScaleInvariance]
) -> dict[str, float]:
    """The running variance of what each weight puts out, where batch norm keeps one.

    Where it comes near the norm's ε, scale invariance ends. To read it waits for the
    device, so this is for moments that wait anyway.

    Args:
        model: The model, without a DDP wrapper.
        entries: The measured weights.

    Returns:
        The median over the channels, by name of the weight.
    """
    return {
        entry.name: float(norm.running_var.median())
        for entry in entries
        if isinstance(norm := _norm(model, entry), _BatchNorm)
        and norm.running_var is not None
    }


def _layer(model: nn.Module, entry: ScaleInvariance) -> dict:
    return {
        'invariant': entry.invariant,
        'norm': entry.norm,
        'reason': entry.reason,
        'eps': getattr(_norm(model, entry), 'eps', None),
    }


def _norm(model: nn.Module, entry: ScaleInvariance) -> nn.Module | None:
    if entry.norm is None:
        return None
    try:
        return model.get_submodule(entry.norm)
    except AttributeError:  # taken out of the model since
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'
