"""The weights that a run has recorded and that a config's model has."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmengine.config import Config

from smd_mmdet.audit import audit
from smd_mmdet.config.errors import SettingError
from smd_mmdet.control import Replay

__all__ = ['CommonLayers', 'common_layers']


@dataclass(frozen=True)
class CommonLayers:
    """Which weights follow what.

    Args:
        own: Names of the weights that follow those of the run with the same name.
        median: Names of those that follow the run's median, which has not got them.
        unused: Names of the run's weights that the model has not got, or that are not
            controlled there.
        controlled_share: Share of all trained numbers that is controlled.
        excluded: Names of the scale-invariant weights that ``exclude`` leaves alone.
    """

    own: list[str]
    median: list[str]
    unused: list[str]
    controlled_share: float
    excluded: list[str]

    @property
    def controlled(self) -> int:
        """How many weights are controlled."""
        return len(self.own) + len(self.median)


def common_layers(
    config: Config, name: str, run: Replay, exclude: Sequence[str]
) -> CommonLayers:
    """Find the scale-invariant weights of a config's model among a run's.

    Args:
        config: The config, whose model is built with random weights.
        name: What the user calls the config.
        run: The run.
        exclude: Names or patterns of weights that are left alone.

    Raises:
        ValueError: If the model cannot be built or has no scale-invariant weight.
    """
    trained = [p for p in audit(config)['parameters'] if p['trainable']]
    invariant = [p for p in trained if p['invariant']]
    left = {p['name'] for p in invariant if _matches(p['name'], exclude)}
    controlled = [p for p in invariant if p['name'] not in left]
    if not controlled:
        why = f'smd audit {name} tells why, and what would change it'
        if invariant:
            why = f'exclude leaves none of {len(invariant)}'
        raise SettingError(f'{name}: no scale-invariant weight to control: {why}')
    names = [p['name'] for p in controlled]
    return CommonLayers(
        own=[n for n in names if n in run.layers],
        median=[n for n in names if n not in run.layers],
        unused=[n for n in run.layers if n not in names],
        controlled_share=_size(controlled) / _size(trained),
        excluded=sorted(left),
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether SMDRescaleHook's ``exclude`` means a weight."""
    return any(fnmatch.fnmatch(name, p) or name.startswith(f'{p}.') for p in patterns)


def _size(parameters: Iterable[dict]) -> int:
    return sum(p['size'] for p in parameters)
