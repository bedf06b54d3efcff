#!/usr/bin/env bash
# Everything that is to be shown on a GPU, in one command and one page:
#
#   bash benchmarks/gpu_check.sh [--out FOLDER] [--iterations N] [--only PATTERN]
#
# What is timed comes first, one part at a time: the pass, the host, a ResNet-50 loop,
# and, once mmcv has CUDA operators (built if missing, some twenty minutes), Mask R-CNN
# at COCO's size. Then all at once what is not: the tests of the kernels, of the control
# and that nothing waits for the device; the operators; Mask R-CNN in two precisions,
# with Δ set, and by torchrun. FOLDER/summary.md says of each part whether it passed;
# the exit code is 0 if all did, 1 if one failed, and 2 where there is no GPU. --only
# takes the parts whose name matches, such as 'Mask*'.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/common.sh"
cd "$root"

out=work_dirs/gpu_check
iterations=300
only='*'
while (($#)); do
    case $1 in
        --out | --iterations | --only) [[ -n ${2:-} ]] || die "$1 needs a value" ;;&
        --out) out=$2; shift 2 ;;
        --iterations) iterations=$2; shift 2 ;;
        --only) only=$2; shift 2 ;;
        *) die 'usage: gpu_check.sh [--out FOLDER] [--iterations N] [--only PATTERN]' ;;
    esac
done
[[ $iterations =~ ^[1-9][0-9]*$ ]] || die "--iterations must be a whole number above 0, got '$iterations'"

python=$(pick_python) || exit
why_not=$("$python" -W ignore -c 'import torch
if not torch.cuda.is_available():
    print(f"no GPU that torch {torch.__version__} sees")' 2>/dev/null) ||
    die "$python has no torch that works; set SMD_PYTHON to one that has"
[[ -z $why_not ]] || die "$why_not"

mkdir -p "$out"
out=$(cd "$out" && pwd)
summary=$out/summary.md
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PYTHONWARNINGS=ignore
printf '# GPU check\n\n%s\n\n| part | result | seconds | log |\n|---|---|---|---|\n' \
    "$(cd benchmarks && "$python" -c 'from common import machine; print(machine())')" >"$summary"

# part NAME COMMAND...: runs it, keeps its output, tells the result.
part() {
    local name=$1 log=$out/${1// /_}.log begin=$SECONDS result=passed
    # shellcheck disable=SC2053  # a pattern
    [[ $name == $only ]] || return
    shift
    say "== $name"
    if ! "$@" >"$log" 2>&1; then
        result=FAILED
        say "   $name failed: $(grep -aE 'Error|error:|FAILED' "$log" | tail -n 1)"
    fi
    printf '| %s | %s | %s | %s |\n' "$name" "$result" "$((SECONDS - begin))" "${log##*/}" >>"$summary"
    [[ $result == passed ]]
}

skip() {
    # shellcheck disable=SC2053  # a pattern
    [[ $1 == $only ]] || return
    say "== $1: skipped, $2"
    printf '| %s | skipped: %s | | |\n' "$1" "$2" >>"$summary"
}

has() { "$python" -W ignore -c "import $1" 2>/dev/null; }
# Why a package cannot be imported: the last line of the error.
fault_of() { "$python" -W ignore -c "import $1" 2>&1 | tail -n 1; }
has_cuda_ops() {
    "$python" -W ignore -c 'import sys
from mmcv.ops import get_compiling_cuda_version as built
sys.exit(built() == "not available")' 2>/dev/null
}

build_mmcv() {
    local wheel
    wheel=$("$python" tools/build_mmcv.py --cuda) || return
    "$python" -m pip install --no-deps --force-reinstall "$wheel"
}

bench() { (cd benchmarks && "$python" "$@"); }

# [config=FILE] train NAME [PROCESSES] OPTION...: Mask R-CNN R50-FPN, train-mode BN,
# shapes at 512 px; then the records must be there and hold finite numbers.
train() {
    local run=$out/$1 launch=("$python" tools/train.py)
    local processes=
    [[ $2 =~ ^[0-9]+$ ]] && { processes=$2; set -- "$1" "${@:3}"; }
    [[ -z $processes ]] || launch=(bash tools/dist_train.sh)
    rm -rf "$run"
    # shellcheck disable=SC2086  # nothing where it is empty
    SMD_PYTHON=$python "${launch[@]}" "$out/${config:-config.py}" $processes --work-dir "$run" \
        --cfg-options "${@:2}" || return
    "$python" - "$run" <<'PY'
import sys
import numpy as np
from smd_mmdet.records import read_records
table = read_records(sys.argv[1]).table
angle = table['angular_update_mean'].to_numpy()
print(f'{len(angle)} rows, {np.isfinite(angle).mean():.1%} finite')
if 'angular_update_wanted' in table.column_names:
    late = table['iter'].to_numpy() > table['iter'].to_numpy().max() / 2
    wanted = table['angular_update_wanted'].to_numpy()[late]
    measured = np.sqrt(angle**2 + table['angular_update_var'].to_numpy())[late]
    ratio = (measured / wanted)[np.isfinite(measured / wanted)]
    print(f'Δ_rms over the wanted Δ, second half: median {np.median(ratio):.3f}, '
          f'{(np.abs(ratio - 1) < 0.1).mean():.0%} within 10 %, '
          f'{(np.abs(ratio - 1) < 0.25).mean():.0%} within 25 %')
sys.exit('error: angles are missing' if not np.isfinite(angle).mean() > 0.99 else 0)
PY
}

part 'environment' "$python" -m torch.utils.collect_env
nvidia-smi >>"$out/environment.log" 2>&1 || true
for dtype in float32 bfloat16; do
    part "bandwidth $dtype" bench bandwidth.py --dtype "$dtype" --rounds 50
done
part 'peer' bench peer.py
part 'scaling' bench scaling.py
part 'host time' bench host_time.py
if has mmengine; then
    part 'ResNet-50 loop float32' bench classify.py --pairs 40
    part 'ResNet-50 loop bfloat16' bench classify.py --pairs 40 --amp bfloat16 --channels-last
else
    skip 'ResNet-50 loop' "$(fault_of mmengine)"
fi

has_cuda_ops || part 'mmcv with CUDA operators' build_mmcv || true
has pytest || part 'installing pytest' "$python" -m pip install -q pytest hypothesis psutil
if has mmdet && has_cuda_ops; then
    part 'overhead at COCO size' bench overhead.py --coco --batch 2 --pairs 15 --target 'at most 0.3 %'
    data=$out/shapes
    if [[ ! -e $data/drawn ]]; then
        part 'Mask R-CNN data' "$python" -m smd_mmdet.cli shapes "$data" \
            --train 200 --val 20 --size 512 && touch "$data/drawn"
    fi
    cat >"$out/config.py" <<EOF
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '$root/configs/_base_/shapes_instance.py',
    '$root/configs/_base_/smd.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, norm_eval=False, frozen_stages=-1, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(num_classes=5), mask_head=dict(num_classes=5)),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=$iterations, val_interval=$iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SMDOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=100)
]
custom_hooks = [dict(type='SMDHook', window=20)]
log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=$iterations))
data_root = '$data/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(512, 512), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
EOF
    cat >"$out/controlled.py" <<EOF
_base_ = './config.py'
angular_update = dict(
    value=8e-3,
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50)
    ],
)
custom_hooks = [
    dict(type='SMDHook', window=20),
    dict(type='SMDRescaleHook', angular_update=angular_update, every=5),
]
EOF
    part 'operators' "$python" tools/check_mmcv.py &
    part 'Mask R-CNN float32' train float32 optim_wrapper.type=OptimWrapper &
    # Not bfloat16: mmcv 2.1.0 has no RoIAlign for it.
    part 'Mask R-CNN float16' train float16 optim_wrapper.type=AmpOptimWrapper &
    config=controlled.py part 'Mask R-CNN float16, Δ set' train controlled \
        optim_wrapper.type=AmpOptimWrapper &
    part 'Mask R-CNN by torchrun, one process' train torchrun 1 optim_wrapper.type=OptimWrapper &
else
    fault=$(fault_of mmdet)
    skip 'Mask R-CNN' "${fault:-mmcv has no CUDA operators}"
fi
part 'kernels' "$python" -m pytest -q -rs -m 'slow or not slow' tests/monitor/test_kernels.py &
part 'no synchronization' "$python" -m pytest -q -rs tests/monitor/test_gpu.py &
part 'control' "$python" -m pytest -q -rs tests/control/test_on_gpu.py &
wait

{
    echo
    for log in "$out"/{bandwidth*,peer,scaling,host*,ResNet*,overhead*}.log; do
        [[ -e $log ]] || continue
        name=${log##*/}
        printf '\n## %s\n\n' "$(tr _ ' ' <<<"${name%.log}")"
        grep -aE '^\||layers' "$log"
    done
} >>"$summary"
say "the results are in $summary"
! grep -qE '^\|[^|]*\| (FAILED|skipped)' "$summary"
