#!/usr/bin/env bash
# From a fresh clone to a verdict: sets up an environment, draws a data set, trains a
# small Mask R-CNN while every scale-invariant layer is measured, and checks the theory.
#
#   bash tools/quickstart.sh [--force]
#
# Called again, it does only what is not done yet: interrupted training goes on from its
# last checkpoint, and finished training is only checked. --force trains anew and keeps
# the old run beside the new one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

data=data/shapes
data_options=(--train 500 --val 60)
config=configs/shapes/mask-rcnn_r18_fpn_shapes.py
run=work_dirs/quickstart
training_minutes=3

force=
case "$*" in
    '') ;;
    --force) force=yes ;;
    -h | --help) show_help && exit ;;
    *) die 'usage: quickstart.sh [--force]' ;;
esac

cd "$root"

phase() {
    say ''
    say "== $1"
    phase_began=$SECONDS
}

phase_done() { say "== $1: $((SECONDS - phase_began)) s"; }

made=$(cat "$data/made" 2>/dev/null || true)
minutes=$(bash tools/setup_env.sh --how-long)
what="environment $minutes min"
if [[ $made != "${data_options[*]}" ]]; then
    what+=', data a quarter'
fi
if [[ -n $force || ! -e $run/finished ]]; then
    what+=", training and validation $training_minutes"
    minutes=$((minutes + training_minutes))
fi
say "This takes about $((minutes + 1)) minutes on two cores that are free ($what)." \
    'Interrupted, it goes on the next time.'

phase '1 of 4: environment'
SMD_PYTHON=$(bash tools/setup_env.sh)
export SMD_PYTHON
if compgen -G '/dev/nvidia[0-9]*' >/dev/null && "$SMD_PYTHON" -W ignore -c '
import sys, torch
from mmcv.ops import get_compiling_cuda_version
cpu_ops = get_compiling_cuda_version() == "not available"
sys.exit(not (torch.cuda.is_available() and cpu_ops))'; then
    say "mmcv's ops are built for the CPU only: training on the CPU"
    export CUDA_VISIBLE_DEVICES=-1
fi
phase_done environment

phase "2 of 4: data in $data"
# $data/made is written last: where drawing was interrupted, it is missing.
if [[ $made == "${data_options[*]}" ]]; then
    say 'already there'
else
    "$SMD_PYTHON" -m smd_mmdet.cli shapes "$data" "${data_options[@]}"
    echo "${data_options[*]}" >"$data/made"
fi
phase_done data

phase "3 of 4: training in $run"
if [[ -n $force && -e $run ]]; then
    old=$run.$(date +%Y%m%d-%H%M%S)
    mv "$run" "$old"
    say "the old run is now $old"
fi
if [[ -e $run/finished ]]; then
    say 'already finished (--force trains anew)'
else
    # Nothing is compared with this run, so it may take what the machine has free.
    eval "$("$SMD_PYTHON" smd_mmdet/launch/threads.py)"
    "$SMD_PYTHON" tools/train.py "$config" --work-dir "$run" --resume || {
        status=$?
        say 'training did not finish; this command again goes on from its last checkpoint'
        exit "$status"
    }
    touch "$run/finished"
fi
phase_done training

phase '4 of 4: does the theory hold?'
status=0
"$SMD_PYTHON" -m smd_mmdet.cli check "$run" || status=$?
phase_done check

say ''
case $status in
    0) say 'Every conclusion of the theory holds where equilibrium was reachable.' ;;
    1) say 'Some layers do not hold; the table above says which.' ;;
    *) die "the check could not be done (exit status $status)" ;;
esac
activate=${SMD_PYTHON%/*}/activate
if [[ -e $activate ]]; then
    report="source ${activate#"$root"/}
  smd report $run"
else
    report="$SMD_PYTHON -m smd_mmdet.cli report $run"
fi
say "All of it took $SECONDS s. Look next at
  $run/          log, checkpoints
  $run/smd/      what was measured, one row per window and layer (Parquet)
  $config
                 the config: change it and run tools/train.py on it
and draw it:
  $report"
