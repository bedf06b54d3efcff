#!/usr/bin/env python
"""Train a detector; takes the arguments of MMDetection's own train.py."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from smd_mmdet.launch import threads

if __name__ == '__main__':  # before torch is imported, which reads it then
    os.environ.update(threads.settings(os.environ, steady=True))

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.launch.arguments import (
    CONFIG_HELP,
    OneLineParser,
    add_common_arguments,
    path_argument,
)
from smd_mmdet.launch.checkpoints import check_checkpoint
from smd_mmdet.launch.runner import build_runner, one_line_errors


def parse_args():
    parser = OneLineParser(description='Train a detector.')
    parser.add_argument('config', type=path_argument, help=CONFIG_HELP)
    parser.add_argument(
        '--work-dir',
        type=path_argument,
        help='folder for logs, checkpoints and records (default: work_dir of the '
        'config, else work_dirs/NAME_OF_CONFIG)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train with automatic mixed precision'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by real over base batch size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        type=path_argument,
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the latest one in the work dir',
    )
    add_common_arguments(parser)
    return parser.parse_args()


def apply_args(args, cfg):
    if args.amp:
        if 'optim_wrapper' not in cfg:
            raise SettingError('--amp: the config has no optim_wrapper')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if args.auto_scale_lr:
        scale = cfg.get('auto_scale_lr') or {}
        if 'enable' not in scale or 'base_batch_size' not in scale:
            raise SettingError(
                '--auto-scale-lr: the config needs auto_scale_lr=dict(enable=..., '
                'base_batch_size=...)'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.load_from:
            check_checkpoint(cfg.load_from)


def main():
    args = parse_args()
    with one_line_errors(training=True):
        cfg = load_config(args.config, args.cfg_options)
        apply_args(args, cfg)
        build_runner(args, cfg, training=True).train()


if __name__ == '__main__':
    main()
