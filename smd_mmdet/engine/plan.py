"""What a schedule leads to, before it is trained: `smd plan`.

MMEngine's own schedulers are driven on a dummy optimizer, so whatever they do is in
the plan. Without measurements the plan is relative to equilibrium, which needs no
norm: Δ/Δ* = (w*/‖w‖)², and w*⁴ ∝ η.
"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from smd_mmdet import theory
from smd_mmdet.forecast import forecast
from smd_mmdet.records import Records, read_records
from smd_mmdet.stages import WARMUP, Change, Stage, StageTracker

from .errors import SettingError
from .launch import load_config

# Of Δ/Δ*; 0.2 of ‖w‖⁴.
TOLERANCE = 0.10
# ‖w‖/w* of many layers under MMDetection's default initialization.
TYPICAL_START = 3.0
# Images of COCO train2017 with and without those that have no object.
_COCO = {True: 117_266, False: 118_287}


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
    assumptions: list[str] = []
    optimizer = _optimizer(config, assumptions)
    length = _run_length(config, iters_per_epoch, gpus, optimizer, assumptions)
    lr, momentum = _schedule(config, optimizer, length)
    every = _accumulative_counts(config)
    if every > 1:
        assumptions.append(
            f'gradients accumulate over {every} iterations: iterations below are '
            'optimizer steps'
        )
        lr, momentum = lr[every - 1 :: every], momentum[every - 1 :: every]
    course = _Course(lr, momentum, optimizer, _spans(lr, momentum, optimizer))
    result = {
        'config': name,
        'optimizer': optimizer.name,
        'theory': optimizer.theory,
        'lr': optimizer.lr,
        'weight_decay': optimizer.weight_decay,
        'momentum': optimizer.momentum,
        'iterations': len(lr),
        'iters_per_epoch': length.per_epoch,
    }
    result['stages'] = course.stages(assumptions)
    result['layers'] = _layers(course, work_dir) if work_dir else []
    result['assumptions'] = assumptions
    result['warnings'] = _warnings(result['stages'], result['layers'], optimizer)
    unreached = [s['stage'] for s in result['stages'] if s['reaches'] is False]
    result['verdict'] = _verdict(result['stages'], unreached, optimizer)
    result['exit_code'] = int(bool(unreached))
    return result


# ------------------------------------------------------------------ the optimizer


@dataclass
class _Optimizer:
    """What of the optimizer the theory asks for."""

    name: str
    theory: str
    lr: float
    weight_decay: float
    momentum: float
    custom_keys: dict[str, dict]

    def multipliers(self, layer: str) -> tuple[float, float]:
        """lr_mult and decay_mult of a parameter, by MMEngine's rule."""
        keys = sorted(sorted(self.custom_keys), key=len, reverse=True)
        for key in keys:
            if key in layer:
                found = self.custom_keys[key]
                return found.get('lr_mult', 1.0), found.get('decay_mult', 1.0)
        return 1.0, 1.0


def _optimizer(config: Config, assumptions: list[str]) -> _Optimizer:
    wrapper = config.get('optim_wrapper') or {}
    found = wrapper.get('optimizer')
    if not isinstance(found, dict) or 'lr' not in found:
        raise SettingError(
            'optim_wrapper.optimizer needs a type and an lr; several optimizers cannot '
            'be planned'
        )
    kind = str(found.get('type'))
    kind = getattr(found.get('type'), '__name__', kind)
    paramwise = wrapper.get('paramwise_cfg') or {}
    known = {'SGD': 'sgd', 'AdamW': 'adamw'}.get(kind, 'none')
    if any(found.get(key) for key in ('nesterov', 'dampening', 'amsgrad')):
        known = 'none'
    default = 0.01 if kind == 'AdamW' else 0.0
    momentum = float(found.get('momentum', 0.0))
    if kind == 'AdamW':
        momentum = float(found.get('betas', (0.9, 0.999))[0])
    optimizer = _Optimizer(
        name=kind,
        theory=known,
        lr=float(found['lr']),
        weight_decay=float(found.get('weight_decay', default)),
        momentum=momentum,
        custom_keys=dict(paramwise.get('custom_keys') or {}),
    )
    _apply_paramwise(optimizer, wrapper, paramwise, assumptions)
    return optimizer


def _apply_paramwise(
    optimizer: _Optimizer, wrapper: dict, paramwise: dict, assumptions: list[str]
) -> None:
    constructor = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    if constructor == 'SMDOptimWrapperConstructor':
        if (factor := paramwise.get('scale_invariant_decay_mult')) is not None:
            optimizer.weight_decay *= factor
        if (angle := paramwise.get('angular_update')) is not None:
            optimizer.weight_decay = float(
                theory.weight_decay_for(angle, optimizer.lr, optimizer.momentum)
            )
    elif constructor != 'DefaultOptimWrapperConstructor':
        assumptions.append(
            f'{constructor} may give layers rates of their own: the plan is for those '
            'with the rate of the config'
        )
    for key, found in optimizer.custom_keys.items():
        rate, decay = found.get('lr_mult', 1.0), found.get('decay_mult', 1.0)
        if rate * decay != 1:
            assumptions.append(
                f'layers named {key!r} have lr × {rate:g} and weight decay × {decay:g}:'
                f' their Δ* is {math.sqrt(rate * decay):.3g} times that below'
            )


# ------------------------------------------------------------------ the length


@dataclass
class _Length:
    """How long the training is, in epochs and iterations."""

    iterations: int
    epochs: int
    per_epoch: int | None
    by_epoch: bool


def _run_length(
    config: Config,
    iters_per_epoch: int | None,
    gpus: int | None,
    optimizer: _Optimizer,
    assumptions: list[str],
) -> _Length:
    loop = config.get('train_cfg') or {}
    kind = getattr(loop.get('type'), '__name__', loop.get('type'))
    by_epoch = loop.get('by_epoch', kind != 'IterBasedTrainLoop')
    if iters_per_epoch is not None and (
        isinstance(iters_per_epoch, bool)
        or not isinstance(iters_per_epoch, int)
        or iters_per_epoch < 1
    ):
        raise SettingError(
            f'iters_per_epoch must be an integer >= 1, got {iters_per_epoch!r}'
        )
    loader = config.get('train_dataloader') or {}
    batch = int(loader.get('batch_size', 1))
    processes = _processes(config, batch, gpus, optimizer, assumptions)
    needed = by_epoch or any(
        s.get('convert_to_iter_based') for s in _scheduler_configs(config)
    )
    if needed and iters_per_epoch is None:
        images = _images(loader.get('dataset'), assumptions)
        iters_per_epoch = math.ceil(math.ceil(images / processes) / batch)
        assumptions.append(
            f'{iters_per_epoch:,} iterations per epoch: {images:,} images, '
            f'{processes} × {batch} in a batch'
        )
    if not by_epoch:
        if 'max_iters' not in loop:
            raise SettingError('train_cfg.max_iters is missing')
        return _Length(int(loop['max_iters']), 1, iters_per_epoch, False)
    if 'max_epochs' not in loop:
        raise SettingError('train_cfg.max_epochs is missing')
    epochs = int(loop['max_epochs'])
    return _Length(epochs * iters_per_epoch, epochs, iters_per_epoch, True)


def _processes(
    config: Config,
    batch: int,
    gpus: int | None,
    optimizer: _Optimizer,
    assumptions: list[str],
) -> int:
    """Training processes; applies AutoScaleLR, which depends on them."""
    scaling = config.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    if gpus is None:
        coco = 'instances_train2017' in str(_annotation_file(config))
        gpus = max(1, base // batch) if base and coco else 1
        reason = (
            f'for the base batch size {base}' if gpus > 1 else 'for lack of a number'
        )
        assumptions.append(f'{gpus} training process{"es" * (gpus > 1)}, {reason}')
    if scaling.get('enable'):
        if not base:
            raise SettingError('auto_scale_lr.base_batch_size is missing')
        factor = gpus * batch / base
        optimizer.lr *= factor
        assumptions.append(f'AutoScaleLR multiplies the learning rate by {factor:g}')
    return gpus


def _annotation_file(config: Config) -> Any:
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset, dict) and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset.get('ann_file', '') if isinstance(dataset, dict) else ''


def _images(dataset: Any, assumptions: list[str]) -> int:
    """Length of a data set, through MMEngine's wrappers."""
    if not isinstance(dataset, dict):
        raise _unknown_length('there is no train_dataloader.dataset')
    kind = getattr(dataset.get('type'), '__name__', dataset.get('type'))
    if kind == 'RepeatDataset':
        return int(dataset['times']) * _images(dataset['dataset'], assumptions)
    if kind == 'ConcatDataset':
        return sum(_images(part, assumptions) for part in dataset['datasets'])
    if kind == 'MultiImageMixDataset':
        return _images(dataset['dataset'], assumptions)
    if kind == 'ClassBalancedDataset':
        raise _unknown_length('ClassBalancedDataset repeats images by their classes')
    if dataset.get('indices') is not None:
        indices = dataset['indices']
        return indices if isinstance(indices, int) else len(indices)
    file = dataset.get('ann_file', '')
    if not isinstance(file, str):
        raise _unknown_length('its data set has no single annotation file')
    filters = dataset.get('filter_cfg') or {}
    path = Path(dataset.get('data_root') or '', file)
    if path.is_file() and path.suffix == '.json':
        return _count(path, filters)
    if Path(file).name == 'instances_train2017.json':
        images = _COCO[bool(filters.get('filter_empty_gt'))]
        assumptions.append(f'{path} is not here: taken to be COCO, {images:,} images')
        return images
    raise _unknown_length(f'{path} is not here')


def _unknown_length(why: str) -> SettingError:
    return SettingError(
        f'the length of an epoch is not known: {why}; give --iters-per-epoch N'
    )


def _count(path: Path, filters: dict) -> int:
    """Images of a COCO annotation file that MMDetection trains on."""
    try:
        content = json.loads(path.read_bytes())
        images = content['images']
        annotated = {entry['image_id'] for entry in content['annotations']}
    except (ValueError, KeyError, TypeError) as fault:
        raise _unknown_length(f'{path} is no COCO annotation file ({fault})') from None
    if filters.get('filter_empty_gt'):
        images = [image for image in images if image['id'] in annotated]
    smallest = filters.get('min_size', 0)
    return sum(min(i['width'], i['height']) >= smallest for i in images)


def _accumulative_counts(config: Config) -> int:
    return int((config.get('optim_wrapper') or {}).get('accumulative_counts', 1))


# ------------------------------------------------------------------ the schedule


def _scheduler_configs(config: Config) -> list[dict]:
    found = config.get('param_scheduler') or []
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, Sequence) or not all(isinstance(s, dict) for s in found):
        raise SettingError('param_scheduler must be a list of dicts')
    return list(found)


def _schedule(
    config: Config, optimizer: _Optimizer, length: _Length
) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and momentum of every iteration, by MMEngine's schedulers."""
    dummy, key = _dummy(optimizer)
    schedulers = [_build(s, dummy, length) for s in _scheduler_configs(config)]
    stepping = [s for s in schedulers if not s.by_epoch]
    by_epoch = [s for s in schedulers if s.by_epoch and length.by_epoch]
    group = dummy.param_groups[0]
    lr, momentum = np.empty(length.iterations), np.empty(length.iterations)
    per_epoch = length.per_epoch if length.by_epoch else length.iterations
    t = 0
    while t < length.iterations:
        stop = t + 1
        if not stepping:  # nothing moves until the epoch ends
            stop = min(length.iterations, t - t % per_epoch + per_epoch)
        lr[t:stop] = group['lr']
        momentum[t:stop] = group[key] if key == 'momentum' else group[key][0]
        t = stop
        for scheduler in stepping:
            scheduler.step()
        if t % per_epoch == 0:
            for scheduler in by_epoch:
                scheduler.step()
        if t % 1024 == 0:  # beyond its end a scheduler does nothing, at a price
            stepping = [s for s in stepping if s._global_step < s.end]
    return lr, momentum


def _dummy(optimizer: _Optimizer) -> tuple[torch.optim.Optimizer, str]:
    weight = [torch.nn.Parameter(torch.zeros(1))]
    if optimizer.name == 'AdamW':
        betas = (optimizer.momentum, 0.999)
        return torch.optim.AdamW(weight, lr=optimizer.lr, betas=betas), 'betas'
    return torch.optim.SGD(
        weight, lr=optimizer.lr, momentum=optimizer.momentum
    ), 'momentum'


def _build(settings: dict, dummy: torch.optim.Optimizer, length: _Length):
    settings = copy.deepcopy(dict(settings))
    by_epoch = settings.get('by_epoch', True)
    settings.setdefault('end', length.epochs if by_epoch else length.iterations)
    defaults = {'optimizer': dummy, 'epoch_length': length.per_epoch}
    try:
        return PARAM_SCHEDULERS.build(settings, default_args=defaults)
    except Exception as fault:
        raise SettingError(
            f'param_scheduler {settings.get("type")!r}: {type(fault).__name__}: {fault}'
        ) from None


@dataclass
class _Span:
    """A stage and where it lies, as a half-open range of iterations."""

    stage: Stage
    start: int
    end: int


def _spans(lr: np.ndarray, momentum: np.ndarray, optimizer: _Optimizer) -> list[_Span]:
    """Stages, told apart as the monitor will tell them apart."""
    tracker = StageTracker()
    spans: list[_Span] = []
    rates, momenta = lr.tolist(), momentum.tolist()
    decay = optimizer.weight_decay
    for t, (rate, alpha) in enumerate(zip(rates, momenta, strict=True)):
        change = tracker.observe(((rate, decay, alpha),))
        if change is not Change.NONE:
            start = t - (change is Change.SETTLED)
            if spans:
                spans[-1].end = start
            spans.append(_Span(tracker.stage, start, len(lr)))
    return [span for span in spans if span.start < span.end]


# ------------------------------------------------------------------ the forecast


@dataclass
class _Course:
    """A schedule, its stages, and what they do to a layer."""

    lr: np.ndarray
    momentum: np.ndarray
    optimizer: _Optimizer
    spans: list[_Span]

    def stages(self, assumptions: list[str]) -> list[dict]:
        """The stages, with a forecast relative to equilibrium."""
        stages = [self._facts(span) for span in self.spans]
        if self.optimizer.theory != 'sgd' or not self.optimizer.weight_decay > 0:
            return stages
        first = next((i for i, s in enumerate(stages) if s['stage'] != WARMUP), None)
        if first is None:
            return stages
        assumptions.append(
            f'Δ/Δ* is forecast for a layer whose norm is at its equilibrium when stage '
            f'{stages[first]["stage"]} begins, and whose L stays as it is: where a '
            'layer really starts is not known before it is measured'
        )
        begin = self.spans[first].start
        norm = theory.equilibrium_norm(
            self.lr[begin], self.optimizer.weight_decay, 1.0, self.momentum[begin]
        )
        for kind in ('plain', 'rescaled'):
            ratios = self._ratios(begin, norm, kind == 'rescaled')
            for stage, span in zip(stages[first:], self.spans[first:], strict=True):
                stage[kind] = self._ends(ratios, span, begin)
        for i in range(first, len(stages)):
            self._judge(stages[i], self.spans[i], stages[i - 1] if i > first else None)
        return stages

    def _facts(self, span: _Span) -> dict:
        part = slice(span.start, span.end)
        lr, momentum = self.lr[part], self.momentum[part]
        decay = self.optimizer.weight_decay
        facts = {
            'stage': span.stage.number,
            'first_iter': span.start + 1,
            'last_iter': span.end,
            'iterations': span.end - span.start,
            'steady': span.stage.steady,
            'lr_start': float(lr[0]),
            'lr_end': float(lr[-1]),
            'momentum': float(momentum[-1]),
            'weight_decay': decay,
            'angular_update_eq': None,
            'angular_update_eq_end': None,
            'relaxation_iterations': None,
            'iterations_to_equilibrium': None,
            'corollary_iterations': None,
            'reachable_from': None,
            'plain': None,
            'rescaled': None,
            'reaches': None,
            'warning': None,
        }
        if self.optimizer.theory == 'none':
            return facts
        facts['angular_update_eq'] = self.angle(lr[0], momentum[0])
        facts['angular_update_eq_end'] = self.angle(lr[-1], momentum[-1])
        rate = 4 * decay * float(np.mean(lr / (1 - momentum)))
        if self.optimizer.theory == 'sgd' and rate > 0:
            facts['relaxation_iterations'] = 1 / rate
        return facts

    def angle(self, lr: float, momentum: float) -> float:
        """Δ* of the config's weight decay; 0 at a rate of 0."""
        if lr <= 0:
            return 0.0
        formula = theory.angular_update
        if self.optimizer.theory == 'adamw':
            formula = theory.adamw_angular_update
        return float(formula(lr, self.optimizer.weight_decay, momentum))

    def _ratios(self, begin: int, norm: float, rescale: bool) -> np.ndarray:
        """Δ/Δ* = (w*/‖w‖)² by iteration, at an L of 1."""
        ahead = forecast(
            self.lr[begin:],
            self.optimizer.weight_decay,
            self.momentum[begin:],
            norm=norm,
            unit_grad_sq=1.0,
            rescale=rescale,
        )
        return (ahead.weight_norm_eq / ahead.weight_norm) ** 2

    def _ends(self, ratios: np.ndarray, span: _Span, begin: int) -> dict:
        part = ratios[span.start - begin : span.end - begin]
        # Rounded: the first stage starts at 1 by assumption.
        start, end = round(float(part[0]), 9), float(part[-1])
        last = part[-max(1, len(part) // 3) :]
        return {
            'start_ratio': start,
            'end_ratio': end,
            'start': start * self.angle(self.lr[span.start], self.momentum[span.start]),
            'end': end * self.angle(self.lr[span.end - 1], self.momentum[span.end - 1]),
            'farthest_in_last_third': float(np.abs(last - 1).max()),
        }

    def _judge(self, stage: dict, span: _Span, before: dict | None) -> None:
        """Whether a stage is long enough, and what it would need."""
        if stage['lr_start'] <= 0:  # nothing moves
            return
        part = slice(span.start, span.end)
        folds = float(
            (self.lr[part] / (1 - self.momentum[part])).sum()
            * 4
            * self.optimizer.weight_decay
        )
        settings = (
            stage['lr_start'],
            self.optimizer.weight_decay,
            float(self.momentum[span.start]),
        )
        stage['reachable_from'] = float(
            (1 + 2 * TOLERANCE * np.exp(min(folds, 500))) ** 0.25
        )
        farthest = stage['plain']['farthest_in_last_third']
        if not stage['steady']:
            stage['reaches'] = farthest <= TOLERANCE
            return
        distance = TYPICAL_START**4 - 1
        if before is not None:
            distance = abs(1 / stage['plain']['start_ratio'] ** 2 - 1)
            drop = before['lr_end'] / stage['lr_start']
            if drop > 1:
                stage['corollary_iterations'] = theory.iterations_to_equilibrium(
                    *settings[:2], drop, settings[2]
                )
        stage['iterations_to_equilibrium'] = float(
            theory.iterations_to_tolerance(distance, *settings, 2 * TOLERANCE)
        )
        if before is None:
            stage['reaches'] = bool(np.exp(-folds) <= 2 * TOLERANCE)
        else:
            stage['reaches'] = abs(stage['plain']['end_ratio'] - 1) <= TOLERANCE


def _layers(course: _Course, work_dir: str) -> list[dict]:
    """A forecast for every measured scale-invariant layer, in real units."""
    optimizer = course.optimizer
    if optimizer.theory != 'sgd' or not optimizer.weight_decay > 0:
        return []
    layers = _measured(read_records(work_dir))
    alike: dict[tuple[float, float], list[dict]] = {}
    for layer in layers:
        alike.setdefault(optimizer.multipliers(layer['layer']), []).append(layer)
    for multipliers, members in alike.items():
        _forecast_layers(course, members, *multipliers)
    return layers


def _measured(records: Records) -> list[dict]:
    """‖w‖ of the first window and L of the last third, per layer that has them."""
    facts = records.metadata.get('layers') or {}
    layers = []
    for name, columns in records.by_layer():
        if (facts.get(name) or {}).get('invariant') is False:
            continue
        h, count = columns['unit_h_mean'], columns['count']
        late = np.arange(len(h)) >= len(h) * 2 // 3
        late &= (count > 0) & np.isfinite(h)
        norms = columns['weight_norm_mean'][count > 0]
        unit = float(np.average(h[late], weights=count[late])) if late.any() else 0.0
        if unit > 0 and len(norms):
            layers.append(
                {'layer': name, 'weight_norm': float(norms[0]), 'unit_grad_sq': unit}
            )
    return layers


def _forecast_layers(
    course: _Course, layers: list[dict], rate: float, decay: float
) -> None:
    """Add the stages to layers with the same multipliers of rate and decay."""
    edges = [t for span in course.spans for t in (span.start, span.end - 1)]
    ratios = {}
    for kind in ('plain', 'rescaled'):
        ahead = forecast(
            course.lr * rate,
            course.optimizer.weight_decay * decay,
            course.momentum,
            norm=[layer['weight_norm'] for layer in layers],
            unit_grad_sq=[layer['unit_grad_sq'] for layer in layers],
            rescale=kind == 'rescaled',
            at=edges,
        )
        ratios[kind] = (ahead.weight_norm_eq / ahead.weight_norm) ** 2
    angles = [
        math.sqrt(rate * decay) * course.angle(course.lr[t], course.momentum[t])
        for t in edges
    ]
    for column, layer in enumerate(layers):
        layer['stages'] = []
        for i, span in enumerate(course.spans):
            stage: dict[str, Any] = {'stage': span.stage.number}
            for kind in ('plain', 'rescaled'):
                start, end = ratios[kind][2 * i : 2 * i + 2, column].tolist()
                stage[kind] = {
                    'start_ratio': start,
                    'end_ratio': end,
                    'start': start * angles[2 * i],
                    'end': end * angles[2 * i + 1],
                }
            stage['reaches'] = abs(stage['plain']['end_ratio'] - 1) <= TOLERANCE
            layer['stages'].append(stage)


# ------------------------------------------------------------------ in words


def _warnings(
    stages: list[dict], layers: list[dict], optimizer: _Optimizer
) -> list[str]:
    if optimizer.theory == 'none':
        return [f'no equilibrium is derived for {optimizer.name}: nothing to forecast']
    if not optimizer.weight_decay > 0:
        return ['weight_decay is 0: without decay there is no equilibrium']
    found = []
    for stage in stages:
        if text := _warning(stage):
            stage['warning'] = text
            found.append(text)
    for number in sorted({s['stage'] for layer in layers for s in layer['stages']}):
        if number == WARMUP:
            continue
        ends = [s for layer in layers for s in layer['stages'] if s['stage'] == number]
        late = sum(not s['reaches'] for s in ends)
        if late:
            lowest = min(s['plain']['end_ratio'] for s in ends)
            found.append(
                f'measured: {late} of {len(ends)} layers will not be in equilibrium at '
                f'the end of stage {number} (lowest Δ/Δ* {lowest:.2f})'
            )
    return found


def _warning(stage: dict) -> str | None:
    if stage['stage'] == WARMUP or stage['plain'] is None:
        return None
    number, length = stage['stage'], stage['iterations']
    course = stage['plain']
    span = f'{course["start_ratio"]:.2f} → {course["end_ratio"]:.2f}'
    if not stage['steady']:
        if stage['reaches']:
            return None
        return (
            f'stage {number} moves the learning rate from {stage["lr_start"]:.3g} to '
            f'{stage["lr_end"]:.3g} faster than norms can follow: Δ will be {span} of '
            'its equilibrium; rescale with the rate, or raise weight decay'
        )
    needed = stage['iterations_to_equilibrium']
    if needed is None:
        return f'stage {number} has a learning rate of 0: nothing moves'
    if course['start_ratio'] == 1:  # the first: the plan starts there
        if stage['reachable_from'] >= TYPICAL_START:
            return None
        return (
            f'stage {number} lasts {length:,} iterations: layers come to equilibrium '
            f'if they start within {stage["reachable_from"]:.2g} times its norm; from '
            f'{TYPICAL_START:g} times, usual under default initialization, it takes '
            f'{needed:,.0f}; start at equilibrium, or raise weight decay'
        )
    if stage['reaches']:
        return None
    needed = max(needed, stage['corollary_iterations'] or 0)
    return (
        f'stage {number} lasts {length:,} iterations; equilibrium needs {needed:,.0f}: '
        f'Δ will be {span} of its equilibrium; rescale, or raise weight decay'
    )


def _verdict(stages: list[dict], unreached: list[int], optimizer: _Optimizer) -> str:
    if optimizer.theory == 'none':
        return f'no theory for {optimizer.name}'
    if optimizer.theory == 'adamw':
        return 'AdamW: Δ* is known, the way there is not'
    if not optimizer.weight_decay > 0:
        return 'no weight decay, no equilibrium'
    judged = [stage for stage in stages if stage['reaches'] is not None]
    if not unreached:
        return f'{len(judged)} of {len(judged)} stages are long enough for equilibrium'
    names = ', '.join(map(str, unreached))
    return (
        f'{len(unreached)} of {len(judged)} stages cannot reach equilibrium without '
        f'rescaling: stage {names}'
    )
