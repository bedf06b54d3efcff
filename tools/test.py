#!/usr/bin/env python
"""Test a detector; takes the arguments of MMDetection's own test.py."""

import copy
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from smd_mmdet.launch import threads

if __name__ == '__main__':  # before torch is imported, which reads it then
    os.environ.update(threads.settings(os.environ, steady=True))

from mmengine.config import ConfigDict

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
    parser = OneLineParser(description='Test a detector.')
    parser.add_argument('config', type=path_argument, help=CONFIG_HELP)
    parser.add_argument('checkpoint', type=path_argument, help='checkpoint to test')
    parser.add_argument(
        '--work-dir', type=path_argument, help='folder for the log and the metrics'
    )
    parser.add_argument(
        '--out', type=path_argument, help='pickle file (.pkl) to write predictions to'
    )
    parser.add_argument('--show', action='store_true', help='show each prediction')
    parser.add_argument(
        '--show-dir',
        type=path_argument,
        help="folder, within the run's own, for painted predictions",
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds that --show shows a picture for (default: 2)',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_common_arguments(parser)
    return parser.parse_args()


def show_predictions(args, cfg):
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise SettingError(
            '--show and --show-dir: the config needs default_hooks.visualization='
            "dict(type='DetVisualizationHook')"
        )
    hook.draw = True
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir:
        hook.test_out_dir = args.show_dir


def augment(cfg):
    """Test on each image and its mirror image, unless the config says how."""
    if not cfg.get('test_dataloader'):
        raise SettingError('--tta: the config has no test_dataloader')
    dataset = cfg.test_dataloader.dataset
    if 'tta_model' not in cfg:
        nms = dict(type='nms', iou_threshold=0.5)
        tta_cfg = dict(nms=nms, max_per_img=100)
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=tta_cfg)
    if 'tta_pipeline' not in cfg:
        inner = dataset
        while 'dataset' in inner:
            inner = inner.dataset
        meta = ['img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor']
        meta += ['flip', 'flip_direction']
        flips = [dict(type='RandomFlip', prob=p) for p in (1.0, 0.0)]
        pack = dict(type='PackDetInputs', meta_keys=meta)
        pipeline = copy.deepcopy(inner.pipeline)
        pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pack]])
        cfg.tta_pipeline = pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def main():
    args = parse_args()
    with one_line_errors():
        if args.out and not args.out.endswith(('.pkl', '.pickle')):
            raise SettingError(f'--out must end in .pkl or .pickle, got {args.out}')
        check_checkpoint(args.checkpoint)
        cfg = load_config(args.config, args.cfg_options)
        cfg.load_from = args.checkpoint
        if args.show or args.show_dir:
            show_predictions(args, cfg)
        if args.tta:
            augment(cfg)
        runner = build_runner(args, cfg, training=False)
        if args.out:
            from mmdet.evaluation import DumpDetResults

            runner.test_evaluator.metrics.append(DumpDetResults(args.out))
        runner.test()


if __name__ == '__main__':
    main()
