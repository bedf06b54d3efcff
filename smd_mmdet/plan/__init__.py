"""What a schedule leads to, before it is trained: `smd plan`.

Without measurements the plan is relative to equilibrium, which needs no norm:
Δ/Δ* = (w*/‖w‖)², and w*⁴ ∝ η.
"""

from typing import Any

from mmengine.config import Config

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.length import run_length
from smd_mmdet.config.load import load_config
from smd_mmdet.config.optimizer import read_optimizer
from smd_mmdet.config.schedule import learning_rates, spans
from smd_mmdet.config.settings import whole

from .course import Course
from .measured import layers_ahead
from .rescaling import rescaling_of
from .warnings import verdict, warnings

__all__ = ['plan']


def plan(
    config: Config | str,
    iters_per_epoch: int | None = None,
    work_dir: str | None = None,
    gpus: int | None = None,
) -> dict:
    """Forecast the angular update of every stage of a config's schedule.

    Args:
        config: A config, its file, or ``mmdet::folder/name.py``.
        iters_per_epoch: Training iterations per epoch; None takes them from the
            data set.
        work_dir: A run of the same model that was measured, if only for some
            hundred iterations: adds a forecast per layer from its ‖w‖ and L.
        gpus: Training processes; None takes the config's base batch size on COCO,
            else 1.

    Returns:
        Plain data: ``stages`` (a list), ``layers``, ``assumptions``, ``warnings``,
        ``verdict``, ``exit_code`` (1 if a stage cannot reach equilibrium), and the
        settings they rest on.

    Raises:
        SettingError: If the config cannot be planned, with the setting to change.
        RecordsError: If ``work_dir`` has no records.
    """
    name = config if isinstance(config, str) else None
    if isinstance(config, str):
        config = load_config(config)
    try:
        return _plan(name, config, iters_per_epoch, work_dir, gpus)
    except (
        *(TypeError, AttributeError, LookupError),
        *(ArithmeticError, MemoryError),
    ) as fault:
        # What a config may hold has no end; what is common is checked where it is read.
        raise SettingError(
            f'{name or "the config"} cannot be planned: {type(fault).__name__}: {fault}'
        ) from fault


def _plan(
    name: str | None,
    config: Config,
    iters_per_epoch: int | None,
    work_dir: str | None,
    gpus: int | None,
) -> dict:
    assumptions: list[str] = []
    optimizer = read_optimizer(config, assumptions)
    length = run_length(config, iters_per_epoch, gpus, optimizer, assumptions)
    lr, momentum = learning_rates(
        config, length.iterations, length.per_epoch, length.by_epoch, optimizer.lr
    )
    every = _accumulated(config, len(lr), assumptions)
    rescaling = rescaling_of(config, lr, every, assumptions)
    lr, momentum = lr[every - 1 :: every], momentum[every - 1 :: every]
    course = Course(lr, momentum, optimizer, spans(lr, momentum), rescaling)
    result: dict[str, Any] = {
        'config': name,
        'optimizer': optimizer.name,
        'theory': optimizer.theory,
        'lr': optimizer.lr,
        'weight_decay': optimizer.weight_decay,
        'momentum': optimizer.momentum,
        'iterations': len(lr),
        'iters_per_epoch': length.per_epoch,
        'rescales': rescaling.kind == 'rescaled',
    }
    result['stages'] = course.stages(assumptions)
    result['layers'] = []
    if work_dir:
        result['layers'] = layers_ahead(course, work_dir, assumptions)
    result['assumptions'] = assumptions
    result['warnings'] = warnings(
        config, result['stages'], result['layers'], optimizer, rescaling
    )
    unreached = [s['stage'] for s in result['stages'] if s['reaches'] is False]
    result['verdict'] = verdict(result['stages'], unreached, optimizer, rescaling)
    result['exit_code'] = int(bool(unreached))
    return result


def _accumulated(config: Config, iterations: int, assumptions: list[str]) -> int:
    """Iterations whose gradients make one step of the optimizer."""
    every = whole(
        config.optim_wrapper.get('accumulative_counts', 1),
        'optim_wrapper.accumulative_counts',
    )
    if every > iterations:
        raise SettingError(
            f'optim_wrapper.accumulative_counts={every}: the training has only '
            f'{iterations} iterations'
        )
    if every > 1:
        assumptions.append(
            f'gradients accumulate over {every} iterations: iterations below are '
            'optimizer steps'
        )
    return every
