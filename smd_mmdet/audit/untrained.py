"""Builds a config's model with random weights."""

import contextlib
import copy
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from smd_mmdet._text import one_line
from smd_mmdet.config.compat import allow_mmpretrain


def build_untrained(config: Config) -> nn.Module:
    """Build a config's model with random weights, without any download.

    Args:
        config: A whole config; it is not changed.

    Returns:
        The initialized model, in train mode as a training loop would set it.

    Raises:
        ValueError: If it has no model, or the model cannot be built; one line.
    """
    settings = config.get('model')
    if not isinstance(settings, dict) or 'type' not in settings:
        raise ValueError('the config has no model')
    settings = copy.deepcopy(settings)
    if (preprocessor := config.get('data_preprocessor')) is not None:
        # As the Runner does.
        settings.setdefault('data_preprocessor', copy.deepcopy(preprocessor))
    _forget_checkpoints(settings)
    allow_mmpretrain(config)
    with _quiet():
        scope = config.get('default_scope') or 'mmdet'
        init_default_scope(scope)
        torch.manual_seed(0)
        try:
            model = MODELS.build(settings)
            if hasattr(model, 'init_weights'):
                model.init_weights()
        except Exception as error:  # whatever a foreign model may raise
            raise ValueError(
                f'the model cannot be built: {one_line(error, 300)}'
            ) from error
    model.train()
    return model


def _forget_checkpoints(node: Any) -> None:
    """Take out every reference to trained weights."""
    if isinstance(node, dict):
        if node.get('type') == 'Pretrained':
            # Within a list of initializations one that does nothing must remain.
            node.clear()
            node.update(type='Constant', layer=[], val=0)
            return
        for key in ('pretrained', 'teacher_ckpt'):
            if node.get(key) is not None:
                node[key] = False if node[key] is True else None
        initialization = node.get('init_cfg')
        if (
            isinstance(initialization, dict)
            and initialization.get('type') == 'Pretrained'
        ):
            node['init_cfg'] = None
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            _forget_checkpoints(child)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what building a model prints away from the standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)
