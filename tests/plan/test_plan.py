"""Plans of configs."""

import argparse
import io
import json

import pytest
from rich.console import Console
from schedules import STEP, WARM, config_by_iteration, config_of

from smd_mmdet.cli import main
from smd_mmdet.config.load import load_config
from smd_mmdet.launch.arguments import add_common_arguments
from smd_mmdet.plan import plan
from smd_mmdet.report.planning import render_plan

MASK_RCNN_1X = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def test_mask_rcnn_1x_cannot_reach_equilibrium_after_its_steps():
    found = plan(MASK_RCNN_1X)
    warm, first, second, third = found['stages']
    assert found['exit_code'] == 1
    assert found['iters_per_epoch'] == 7330
    assert [s['stage'] for s in found['stages']] == [-1, 0, 1, 2]
    assert (second['first_iter'], second['last_iter']) == (58_641, 80_630)
    assert warm['last_iter'] == 499 and warm['reaches'] is None
    assert first['angular_update_eq'] == pytest.approx(1.45e-3, rel=1e-2)
    assert first['relaxation_iterations'] == pytest.approx(12_500, rel=1e-3)
    assert second['relaxation_iterations'] == pytest.approx(125_000, rel=1e-3)
    assert third['relaxation_iterations'] == pytest.approx(1_250_000, rel=1e-3)
    assert second['plain']['start_ratio'] == pytest.approx(0.316, abs=1e-3)
    assert second['plain']['end_ratio'] == pytest.approx(0.342, abs=1e-3)
    assert second['rescaled']['end_ratio'] == pytest.approx(1, abs=1e-3)
    assert (first['reaches'], second['reaches'], third['reaches']) == (True,) + (
        False,
    ) * 2
    assert 'stage 1 lasts 21,990 iterations' in second['warning']
    assert 'rescale' in second['warning']
    assert any('117,266 images' in line for line in found['assumptions'])
    json.dumps(found, allow_nan=False)


def test_the_plan_says_on_what_start_it_rests():
    found = plan(MASK_RCNN_1X)
    assert any('norm is at its equilibrium' in line for line in found['assumptions'])
    assert found['stages'][1]['reachable_from'] == pytest.approx(2.2, abs=0.05)
    assert 'from 3 times, usual under default' in found['stages'][1]['warning']


def test_a_warning_says_once_what_each_number_is():
    text = plan(MASK_RCNN_1X)['stages'][2]['warning']
    assert 'within 10% of its equilibrium after 476,000: Δ will be 0.32 → 0.34' in text
    assert text.count('raise weight decay to') == 1


def test_frozen_norms_are_told():
    def told(**backbone) -> bool:
        config = config_of([])
        config.model = dict(type='MaskRCNN', backbone=backbone)
        found = plan(config, iters_per_epoch=5000)['warnings']
        return any('norms are frozen' in line for line in found)

    assert told(norm_eval=True)
    assert told(norm_eval=False, frozen_stages=1)
    assert not told(norm_eval=False, frozen_stages=-1)
    assert not told(depth=50)


def test_enough_iterations_need_no_warning():
    found = plan(config_of([STEP | dict(gamma=0.5)]), iters_per_epoch=5000)
    assert found['exit_code'] == 0
    assert not any(stage['warning'] for stage in found['stages'])
    assert all(stage['reaches'] for stage in found['stages'])


def test_an_optimizer_without_theory_has_nothing_to_forecast():
    optimizer = dict(type='RMSprop', lr=1e-3, weight_decay=0.05)
    found = plan(config_of([STEP], optimizer=optimizer), iters_per_epoch=100)
    assert found['stages'][0]['angular_update_eq'] is None
    assert found['verdict'] == 'no theory for RMSprop'
    assert found['context'] is None and found['exit_code'] == 0


def test_a_rate_of_zero_and_a_rate_that_rises_again():
    milestones = dict(by_epoch=False, begin=0)
    rising = dict(type='MultiStepLR', milestones=[200], gamma=10.0) | milestones
    found = plan(config_by_iteration([rising], 220))
    assert 'stage 1 lasts 20 iterations' in found['stages'][1]['warning']
    still = dict(type='MultiStepLR', milestones=[200], gamma=0.0) | milestones
    found = plan(config_by_iteration([still], 400))
    assert 'nothing moves' in found['stages'][1]['warning']
    json.dumps(found, allow_nan=False)


def test_options_of_the_command_line_are_those_of_a_training(capsys):
    options = ['train_cfg.max_epochs=24', 'param_scheduler.1.milestones=[16,22]']
    options += ['param_scheduler.1.end=24']
    words = [MASK_RCNN_1X, '--json', '--cfg-options', *options]
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    trained = load_config(
        MASK_RCNN_1X, parser.parse_args(['--cfg-options', *options]).cfg_options
    )
    code = main(['plan', *words])
    found = json.loads(capsys.readouterr().out)
    assert found['stages'] == plan(trained)['stages'] and code == found['exit_code']
    assert [s['last_iter'] for s in found['stages']][1:] == [117_280, 161_260, 175_920]
    assert main(['plan', *words[:-1], 'param_scheduler.7.milestones=[1]']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_what_a_config_prints_is_no_part_of_the_json(tmp_path, capsys):
    config = tmp_path / 'config.py'
    config.write_text(f"print('a word')\n_base_ = ['{MASK_RCNN_1X}']\n")
    main(['plan', str(config), '--json'])
    printed = capsys.readouterr()
    assert json.loads(printed.out)['stages'] and 'a word' in printed.err


def test_a_plan_renders(tmp_path):
    console = Console(file=io.StringIO(), width=140)
    console.print(render_plan(plan(MASK_RCNN_1X)))
    text = console.file.getvalue()
    assert '0.316 → 0.342' in text and 'warm-up' in text


def test_a_long_schedule_is_planned_to_its_end():
    schedule = [WARM, dict(type='CosineAnnealingLR', by_epoch=False, T_max=90_000)]
    found = plan(config_by_iteration(schedule, 90_000))
    assert found['stages'][-1]['last_iter'] == 90_000


def test_the_headline_names_a_first_stage_that_is_too_short_from_the_usual_start():
    found = plan(MASK_RCNN_1X)
    assert 'from 3 times' in found['stages'][1]['warning']
    assert 'stage 1, 2; stage 0 is too short for layers that start' in found['verdict']
    found = plan(config_by_iteration([], 200_000))
    assert found['verdict'] == 'stage 0 is long enough for equilibrium'
