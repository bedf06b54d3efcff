"""Trains the small runs of one question on one data set with one seed.

    python -m studies.control.training QUESTION_DATA SEED FOLDER

Runs of a seed have the same initial directions and, with batches of one size, the same
data in the same order. Each writes ``FOLDER/NAME.json`` when it is done; those that are
there are not trained again.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.control import AngularUpdateController
from smd_mmdet.invariance import find_scale_invariant
from smd_mmdet.records import RecordWriter
from smd_mmdet.rescale import rescale_

from .. import ROOT
from .network import Images, network, read_images
from .runs import BASE, QUESTIONS, STEPS, Run

__all__ = ['FOLDERS', 'Training', 'read_result', 'train', 'train_question']

# The folder of each data set's images.
FOLDERS = {'nuclei': 'data/nuclei_crops', 'shapes': 'data/shapes_cls'}
# Iterations in a window of the records, which are as many as SMDHook's, and from one
# validation to the next; how many images it has before the last one, which has all.
WINDOW, VALIDATE, SOME = 50, 100, 400
MOMENTUM = 0.9


class Training:
    """One run under way.

    Args:
        run: What is trained.
        classes: Number of classes.
        seed: Seed of initial directions and of the order of the data.
        reference: Folder of the reference's records, for a replay.
    """

    def __init__(
        self, run: Run, classes: int, seed: int, reference: Path | None = None
    ) -> None:
        self.run = run
        self.model = network(classes, run.norms, seed)
        sample = (torch.zeros(2, 3, 32, 32),)
        entries = find_scale_invariant(self.model, sample)
        self.names = [entry.name for entry in entries if entry.invariant]
        self.optimizers = self._optimizers()
        self.optimizer = self.optimizers[0]
        self._peaks = [
            [group['lr'] for group in optimizer.param_groups]
            for optimizer in self.optimizers
        ]
        self._set_rates(0)
        weights = {n: p for n, p in self.model.named_parameters() if n in self.names}
        self.monitor = SphericalMotionMonitor(self.optimizer, weights, WINDOW)
        self.controller = None
        if (wanted := self._wanted(reference)) is not None:
            self.controller = AngularUpdateController(
                self.model, self.optimizer, self.names, wanted, run.every, sample
            )

    def step(self, step: int, images: Tensor, labels: Tensor) -> float:
        """Train on a batch; the loss."""
        loss = functional.cross_entropy(self.model(images), labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self._set_rates(step + 1)
        if self.run.control == 'rescale':
            drop = self.run.rate(step) / self.run.rate(step + 1)
            if drop > 2:
                rescale_(self.model, self.optimizer, self.names, drop**-0.25)
        if self.controller is not None:
            self.controller.step()
        return float(loss.detach())

    def finish(self) -> Mapping[str, np.ndarray]:
        """End the measurement.

        Returns:
            The records.

        Raises:
            RuntimeError: If the controller or the monitor has stopped before the end.
        """
        self.monitor.detach()
        self.monitor.end_window()
        faults = [self.monitor.fault]
        if self.controller is not None:
            self.controller.detach()
            faults.append(self.controller.fault)
        if fault := next(filter(None, faults), None):
            raise RuntimeError(f'{self.run.name}: {fault}') from fault
        return self.monitor.collect()

    def _optimizers(self) -> list[Optimizer]:
        """One for the scale-invariant weights, and one for the rest if it differs."""
        run = self.run
        weights, rest = [], []
        for name, parameter in self.model.named_parameters():
            (weights if name in self.names else rest).append(parameter)
        groups = [{'params': weights, 'lr': run.lr, 'weight_decay': run.weight_decay}]
        if run.whole:
            groups.append({'params': rest, 'lr': run.lr, 'weight_decay': 0.0})
        if run.optimizer == 'adamw':
            found: list[Optimizer] = [AdamW(groups, lr=run.lr)]
        else:
            found = [SGD(groups, lr=run.lr, momentum=MOMENTUM)]
        if not run.whole:
            found.append(SGD(rest, lr=BASE.lr, momentum=MOMENTUM))
        return found

    def _set_rates(self, step: int) -> None:
        """Give the step to come its rates, which the controller then knows."""
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group['lr'] = peak * self.run.rate(step)

    def _wanted(self, reference: Path | None) -> Any:
        run = self.run
        if run.control == 'angle':
            return np.array([run.angle * run.rate(step) for step in range(STEPS)])
        if run.control == 'replay':
            return reference
        return 'equilibrium' if run.control == 'equilibrium' else None


@torch.no_grad()
def validate(model: nn.Module, images: Images, number: int) -> tuple[float, float]:
    """Mean loss and accuracy of the first images."""
    model.eval()
    loss, right, most = 0.0, 0, 200
    for first in range(0, number, most):
        some, labels = images.batch(np.arange(first, min(first + most, number)))
        scores = model(some)
        loss += float(functional.cross_entropy(scores, labels, reduction='sum'))
        right += int((scores.argmax(1) == labels).sum())
    model.train()
    return loss / number, right / number


def train(
    run: Run, images: Images, validation: Images, seed: int, folder: Path
) -> dict[str, Any]:
    """Train one run.

    Args:
        run: What is trained.
        images: Images to train with.
        validation: Images to validate with.
        seed: Seed of all random choices.
        folder: Folder of the question, which has the reference's records.

    Returns:
        What became of it: plain values.
    """
    began = time.process_time()
    classes = int(images.labels.max()) + 1
    training = Training(run, classes, seed, folder / BASE.name)
    order = np.random.default_rng(seed)
    losses, validations = [], []
    for step in range(STEPS):
        index = order.integers(len(images), size=run.batch)
        batch, labels = images.batch(index)
        if order.random() < 0.5:
            batch = batch.flip(3)
        losses.append(training.step(step, batch, labels))
        if (step + 1) % VALIDATE == 0 and step + 1 < STEPS:
            found = validate(training.model, validation, min(SOME, len(validation)))
            validations.append((step + 1, *found))
    last = validate(training.model, validation, min(SOME, len(validation)))
    validations.append((STEPS, *last))
    loss, accuracy = validate(training.model, validation, len(validation))
    rows = training.finish()
    if run == BASE:
        RecordWriter(folder / BASE.name).append(dict(rows))
    return {
        'run': asdict(run),
        'seed': seed,
        'losses': np.round(losses, 5).tolist(),
        'validations': validations,
        'loss': loss,
        'accuracy': accuracy,
        'ends': _by_layer(rows, 'iter', training.names)[:, 0].tolist(),
        'angles': _angles(rows, training.names).tolist(),
        'norms': _by_layer(rows, 'weight_norm_mean', training.names).tolist(),
        'seconds': time.process_time() - began,
    }


def _by_layer(
    rows: Mapping[str, np.ndarray], column: str, names: list[str]
) -> np.ndarray:
    """A column of the records; shape (windows, layers)."""
    layers = np.asarray(rows['layer']).astype(str)
    return np.stack([rows[column][layers == name] for name in names], axis=1)


def _angles(rows: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Root mean square of Δ; shape (windows, layers)."""
    mean = _by_layer(rows, 'angular_update_mean', names)
    return np.sqrt(mean**2 + _by_layer(rows, 'angular_update_var', names))


def train_question(question: str, data: str, seed: int, folder: Path) -> None:
    """Train those runs of a question that are not done.

    Args:
        question: Key of :data:`QUESTIONS`.
        data: Key of :data:`FOLDERS`.
        seed: The seed.
        folder: Where the results go.

    Raises:
        OSError: If the images cannot be read, or a result not be written.
    """
    runs = [run for run in QUESTIONS[question] if read_result(folder, run) is None]
    if not runs:
        return
    folder.mkdir(parents=True, exist_ok=True)
    root = ROOT / FOLDERS[data]
    images, validation = (read_images(root / split) for split in ('train', 'val'))
    for number, run in enumerate(runs, 1):
        found = train(run, images, validation, seed, folder)
        unfinished = folder / f'.{run.name}.json'
        unfinished.write_text(json.dumps(found), 'utf-8')
        os.replace(unfinished, folder / f'{run.name}.json')
        print(
            f'{run.name}: {found["accuracy"]:.3f}, {number} of {len(runs)}', flush=True
        )


def read_result(folder: Path, run: Run) -> dict[str, Any] | None:
    """What became of a run; None if it was not trained, or with other settings."""
    try:
        found = json.loads((folder / f'{run.name}.json').read_text('utf-8'))
    except FileNotFoundError:
        return None
    return found if found['run'] == asdict(run) else None


if __name__ == '__main__':
    torch.set_num_threads(1)
    name, number, where = sys.argv[1:]
    train_question(*name.split('_'), int(number), Path(where))
