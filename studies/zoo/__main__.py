"""Audit configs of MMDetection's shipped zoo and write the table docs/zoo.md.

Every config is audited as shipped, and with all norms in train mode (norm_eval=False,
frozen_stages=-1) where it freezes any. Each in a process of its own, on the CPU, with
random weights, images and boxes. Results are kept: a second start goes on.

    python tools/audit_zoo.py --results work_dirs/zoo
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import time
from pathlib import Path

from smd_mmdet.launch.arguments import OneLineParser

# One config or two of every family of the zoo that has a detector of its own.
CONFIGS = """
atss/atss_r50_fpn_1x_coco.py
autoassign/autoassign_r50-caffe_fpn_1x_coco.py
boxinst/boxinst_r50_fpn_ms-90k_coco.py
bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py
carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py
cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py
cascade_rpn/cascade-rpn_fast-rcnn_r50-caffe_fpn_1x_coco.py
centernet/centernet_r18_8xb16-crop512-140e_coco.py
centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py
condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py
conditional_detr/conditional-detr_r50_8xb2-50e_coco.py
convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py
cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py
crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py
dab_detr/dab-detr_r50_8xb2-50e_coco.py
dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py
dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py
ddod/ddod_r50_fpn_1x_coco.py
ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py
deformable_detr/deformable-detr_r50_16xb2-50e_coco.py
detectors/detectors_htc-r50_1x_coco.py
detr/detr_r50_8xb2-150e_coco.py
dino/dino-4scale_r50_8xb2-12e_coco.py
double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py
dyhead/atss_r50_fpn_dyhead_1x_coco.py
dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py
efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py
empirical_attention/faster-rcnn_r50-attn0010-dcn_fpn_1x_coco.py
fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py
faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py
faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py
fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py
foveabox/fovea_r50_fpn_4xb4-1x_coco.py
fpg/retinanet_r50_fpg_crop640_50e_coco.py
free_anchor/freeanchor_r50_fpn_1x_coco.py
fsaf/fsaf_r50_fpn_1x_coco.py
gcnet/mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco.py
gfl/gfl_r50_fpn_1x_coco.py
ghm/retinanet_r50_fpn_ghm-1x_coco.py
glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py
gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py
gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py
grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py
groie/faste-rcnn_r50_fpn_groie_1x_coco.py
grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py
guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py
hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py
htc/htc_r50_fpn_1x_coco.py
instaboost/mask-rcnn_r50_fpn_instaboost-4x_coco.py
lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py
ld/ld_r18-gflv1-r101_fpn_1x_coco.py
libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py
lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py
mask2former/mask2former_r50_8xb2-lsj-50e_coco.py
mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py
mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py
mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py
maskformer/maskformer_r50_ms-16xb1-75e_coco.py
masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py
ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py
nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py
nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py
paa/paa_r50_fpn_1x_coco.py
pafpn/faster-rcnn_r50_pafpn_1x_coco.py
panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py
pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py
point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py
pvt/retinanet_pvt-t_fpn_1x_coco.py
qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py
queryinst/queryinst_r50_fpn_1x_coco.py
regnet/mask-rcnn_regnetx-3.2GF_fpn_1x_coco.py
reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py
reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py
res2net/faster-rcnn_res2net-101_fpn_2x_coco.py
resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py
resnet_strikes_back/retinanet_r50-rsb-pre_fpn_1x_coco.py
retinanet/retinanet_r18_fpn_1x_coco.py
retinanet/retinanet_r50_fpn_1x_coco.py
rpn/rpn_r50_fpn_1x_coco.py
rtmdet/rtmdet_tiny_8xb32-300e_coco.py
rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py
sabl/sabl-retinanet_r50_fpn_1x_coco.py
scnet/scnet_r50_fpn_1x_coco.py
scratch/mask-rcnn_r50-scratch_fpn_gn-all_6x_coco.py
seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py
soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py
solo/solo_r50_fpn_1x_coco.py
solov2/solov2_r50_fpn_1x_coco.py
sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py
ssd/ssd300_coco.py
ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py
swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py
timm_example/retinanet_timm-efficientnet-b1_fpn_1x_coco.py
tood/tood_r50_fpn_1x_coco.py
tridentnet/tridentnet_r50-caffe_1x_coco.py
vfnet/vfnet_r50_fpn_1x_coco.py
yolact/yolact_r50_1xb8-55e_coco.py
yolo/yolov3_d53_8xb8-320-273e_coco.py
yolof/yolof_r50-c5_8xb8-1x_coco.py
yolox/yolox_tiny_8xb8-300e_coco.py
"""
# These fix their statistics unless told otherwise.
RESNETS = ('ResNe', 'Res2Net', 'RegNet', 'DetectoRS_', 'TridentResNet', 'Darknet')
MODES = ('trained', 'shipped')


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--results', type=Path, default=Path('work_dirs/zoo'))
    parser.add_argument('--output', type=Path, default=Path('docs/zoo.md'))
    parser.add_argument('--configs', nargs='+', default=CONFIGS.split(), metavar='NAME')
    parser.add_argument('--timeout', type=int, default=900, help='seconds per config')
    parser.add_argument('--memory', type=int, default=12, help='address space, GiB')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--retry', action='store_true', help='run again what was skipped before'
    )
    parser.add_argument(
        '--table-only', action='store_true', help='write the table from kept results'
    )
    return parser.parse_args()


# ------------------------------------------------------------------------- one config


def unfreeze(node) -> bool:
    """Put every norm in train mode and train every stage; tell if anything changed."""
    changed = False
    if isinstance(node, dict):
        if str(node.get('type')).startswith(RESNETS) or 'norm_eval' in node:
            changed |= node.get('norm_eval', True)
            node['norm_eval'] = False
        # EfficientNet counts its stages from the stem: 0 freezes none.
        free = 0 if node.get('type') == 'EfficientNet' else -1
        if node.get('frozen_stages', free) > free:
            changed = True
            node['frozen_stages'] = free
        norm = node.get('norm_cfg')
        if isinstance(norm, dict) and norm.get('requires_grad') is False:
            changed = norm['requires_grad'] = True
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            changed |= unfreeze(child)
    return bool(changed)


def audit_one(name: str, mode: str) -> dict:
    from smd_mmdet.audit import audit
    from smd_mmdet.config.load import load_config

    start = time.process_time()
    config = load_config(f'mmdet::{name}')
    if mode == 'trained' and not unfreeze(config.model):
        return dict(same=True)
    found = audit(config, verify=True)
    return dict(
        summary=found['summary'],
        seconds=time.process_time() - start,
        **compare(found['parameters']),
    )


def compare(parameters: list[dict]) -> dict:
    """Structure against proof, over everything that the proof decides."""
    decided = [
        p for p in parameters if p['proof'] and p['proof']['verdict'] is not None
    ]
    pairs = [(p['invariant'], p['proof']['verdict']) for p in decided]
    undecided = [
        p['name'] for p in parameters if p['proof'] and p['proof']['verdict'] is None
    ]
    wrong = [p for p in decided if p['invariant'] != p['proof']['verdict']]
    return dict(
        both=pairs.count((True, True)),
        neither=pairs.count((False, False)),
        only_structure=[describe(p) for p in wrong if p['invariant']],
        only_proof=[describe(p) for p in wrong if not p['invariant']],
        undecided=len(undecided),
        undecided_names=undecided[:20],
        single=any('float32' in p['proof']['reason'] for p in decided),
    )


def describe(parameter: dict) -> dict:
    return {key: parameter[key] for key in ('name', 'reason', 'proof')}


# ------------------------------------------------------------------------ all configs


def run_all(args: argparse.Namespace) -> None:
    # Before the first fork: what is imported here is imported once.
    import torch
    from mmdet.utils import register_all_modules

    from smd_mmdet.audit import audit  # noqa: F401

    register_all_modules(init_default_scope=False)

    torch.set_num_threads(args.threads)
    args.results.mkdir(parents=True, exist_ok=True)
    for mode in MODES:
        for name in args.configs:
            path = result_path(args.results, name, mode)
            if path.exists():
                kept = json.loads(path.read_text())
                if not (args.retry and 'skipped' in kept):
                    continue
            result = run_one(args, name, mode, path)
            print(f'{name} ({mode}): {outcome(result)}', flush=True)
            write_table(args)


def result_path(results: Path, name: str, mode: str) -> Path:
    return results / f'{name.replace("/", "--")}.{mode}.json'


def run_one(args: argparse.Namespace, name: str, mode: str, path: Path) -> dict:
    """Audit in a child, which may run out of time or memory or crash alone."""
    # Forked, it need not import everything again.
    context = multiprocessing.get_context('fork')
    child = context.Process(target=run_in_child, args=(args, name, mode, path))
    child.start()
    child.join(args.timeout)
    if child.is_alive():
        child.kill()
        child.join()
        return skip(path, f'took over {args.timeout} s')
    if not path.exists():
        return skip(path, f'ended with exit status {child.exitcode}')
    return json.loads(path.read_text())


def run_in_child(args: argparse.Namespace, name: str, mode: str, path: Path) -> None:
    os.nice(max(0, 19 - os.nice(0)))
    size = args.memory * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        write(path, audit_one(name, mode))
    except Exception as error:  # whatever a foreign model may raise
        skip(path, ' '.join(str(error).split()))


def skip(path: Path, reason: str) -> dict:
    result = dict(skipped=reason)
    write(path, result)
    return result


def write(path: Path, result: dict) -> None:
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)


def outcome(result: dict) -> str:
    if 'skipped' in result:
        return f'skipped, {result["skipped"]}'
    if result.get('same'):
        return 'nothing is frozen'
    wrong = len(result['only_structure']), len(result['only_proof'])
    return (
        f'{result["both"]} invariant, {wrong[0]} false, {wrong[1]} missed, '
        f'{result["undecided"]} undecided, {result["seconds"]:.0f} s'
    )


# -------------------------------------------------------------------------- the table

HEADER = """# Scale-invariant weights in MMDetection's zoo

Written by `tools/audit_zoo.py`; do not edit. Every config with random weights, random
images and boxes, on one CPU core. *shipped* is the config as it is; *trained* is the
same with `norm_eval=False` and `frozen_stages=-1`, where it freezes any norm or stage.

A layer is a trainable tensor of two dimensions or more. *Found* is what the structure
says ({found}); *proof* is what scaling by powers of two and the cosine of (w, g) say in
float64, without looking at the structure. *Precision* and *recall* compare them over
all tensors that the proof decides; *undecided* are those without a gradient on this
batch.

"""
COLUMNS = (
    'config',
    'norms',
    'weights',
    'layers',
    'found',
    'share of weights',
    'precision',
    'recall',
    'undecided',
    'CPU s',
)


def write_table(args: argparse.Namespace) -> None:
    rows, skipped, results, missing = [], [], [], 0
    for name in args.configs:
        for mode in reversed(MODES):
            path = result_path(args.results, name, mode)
            if not path.exists():
                missing += 1
                continue
            result = json.loads(path.read_text())
            if 'skipped' in result:
                skipped.append((name, mode, result['skipped']))
            elif not result.get('same'):
                results.append((name, result))
                rows.append(row(name, mode, result))
    text = HEADER.format(found='`find_scale_invariant`')
    if missing:
        text += f'{missing} of {len(MODES) * len(args.configs)} runs are not done.\n\n'
    text += totals(results) + '\n' + line(COLUMNS) + line(['---'] * len(COLUMNS))
    text += ''.join(map(line, rows))
    text += differences(results) + skipped_table(skipped)
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(text)


def line(cells) -> str:
    return f'| {" | ".join(map(str, cells))} |\n'


def row(name: str, mode: str, result: dict) -> list[str]:
    summary = result['summary']
    precision, recall = scores([result])
    note = ' ¹' if result['single'] else ''
    return [
        name.removesuffix('.py') + note,
        mode,
        f'{summary["weights"] / 1e6:.1f} M',
        summary['layers'],
        summary['invariant_layers'],
        f'{summary["share_of_weights"]:.1%}',
        precision,
        recall,
        result['undecided'],
        f'{result["seconds"]:.0f}',
    ]


def scores(results: list[dict]) -> tuple[str, str]:
    both = sum(r['both'] for r in results)
    false = sum(len(r['only_structure']) for r in results)
    missed = sum(len(r['only_proof']) for r in results)
    return ratio(both, both + false), ratio(both, both + missed)


def ratio(part: int, whole: int) -> str:
    return f'{part / whole:.4f}'.rstrip('0').ljust(3, '0') if whole else '–'


def totals(results: list[tuple[str, dict]]) -> str:
    values = [result for _, result in results]
    precision, recall = scores(values)
    both = sum(r['both'] for r in values)
    neither = sum(r['neither'] for r in values)
    undecided = sum(r['undecided'] for r in values)
    count = len({name for name, _ in results})
    return (
        f'**{count} configs, {len(results)} runs: precision {precision}, recall '
        f'{recall}** over {both + neither} decided tensors, {both} of them '
        f'invariant by both; {undecided} undecided.\n'
    )


def differences(results: list[tuple[str, dict]]) -> str:
    text = ''
    for key, title in (
        ('only_structure', 'Found, but refuted by the proof'),
        ('only_proof', 'Proved, but not found'),
    ):
        items = [(name, item) for name, result in results for item in result[key]]
        if not items:
            continue
        text += f'\n## {title}\n\n' + line(
            ['config', 'parameter', 'structure', 'proof']
        )
        text += line(['---'] * 4)
        for name, item in items:
            proof = item['proof']['reason']
            text += line([name, f'`{item["name"]}`', item['reason'], proof])
    if any(result['single'] for _, result in results):
        text += '\n¹ the model cannot run in float64: proved in float32.\n'
    return text


def skipped_table(skipped: list[tuple[str, str, str]]) -> str:
    if not skipped:
        return ''
    text = '\n## Skipped\n\n' + line(['config', 'norms', 'reason']) + line(['---'] * 3)
    for name, mode, reason in skipped:
        text += line([name, mode, brief(reason)])
    return text


def brief(reason: str) -> str:
    """A reason without the place of this installation, fit for a table."""
    reason = re.sub(r'\S*/\S+\.py: |^[\w.]*Error: ', '', reason)
    return reason.replace('|', '\\|')[:200]


def main() -> None:
    args = parse_args()
    if not args.table_only:
        run_all(args)
    write_table(args)


if __name__ == '__main__':
    main()
