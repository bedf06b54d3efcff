"""Builds the model of a config with random weights."""

import contextlib
import copy
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from smd_mmdet._text import one_line
from smd_mmdet.config.compat import allow_mmpretrain
from smd_mmdet.config.types import names_class, type_name

__all__ = ['build_untrained']


def build_untrained(config: Config) -> nn.Module:
    """Build the model of a config with random weights, without any download.

    Args:
        config: A whole config; it is not changed.

    Returns:
        The initialized model, in train mode as a training loop would set it.

    Raises:
        ValueError: If the config has no model, or the model cannot be built; the
            message is one line.

    Example:
        >>> from mmengine.config import Config
        >>> backbone = dict(type='mmdet.ResNet', depth=18)
        >>> model = build_untrained(Config(dict(model=backbone)))
        >>> model.conv1.weight.shape
        torch.Size([64, 3, 7, 7])
    """
    settings = config.get('model')
    if not isinstance(settings, dict) or 'type' not in settings:
        raise ValueError('the config has no model')
    settings = copy.deepcopy(settings)
    if (preprocessor := config.get('data_preprocessor')) is not None:
        # MMEngine's Runner does the same.
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
        except Exception as error:  # a foreign model may raise anything
            raise ValueError(
                f'the model cannot be built: {one_line(error, 300)}'
            ) from error
    model.train()
    return model


def _forget_checkpoints(node: Any) -> None:
    """Take out every reference to trained weights."""
    if isinstance(node, dict):
        if _is_pretrained(node):
            # It may stand in a list of initializations, which must keep its length:
            # this one does nothing.
            node.clear()
            node.update(type='Constant', layer=[], val=0)
            return
        for key in ('pretrained', 'teacher_ckpt'):
            if node.get(key) is not None:
                node[key] = False if node[key] is True else None
        if _is_pretrained(node.get('init_cfg')):
            node['init_cfg'] = None
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            _forget_checkpoints(child)


def _is_pretrained(node: Any) -> bool:
    """Whether a node of the config is an initialization that loads a checkpoint."""
    # MMEngine registers the class PretrainedInit as 'Pretrained'.
    return isinstance(node, dict) and (
        type_name(node) == 'Pretrained' or names_class(node, PretrainedInit.__name__)
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what building a model prints out of the standard output and the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)
