#!/usr/bin/env bash
# The quickstart's training on a machine that others keep busy, by number of threads.
#
#   bash benchmarks/busy_threads.sh FOLDER [BUSY] [ITERATIONS] [ROUNDS]
#
# BUSY processes (2) do nothing but compute meanwhile. In turn: the threads that the
# quickstart chooses, 1 and 2 set by hand, and as many as there are cores that spin while
# they wait, which is what torch does by itself. A line for each run goes to
# FOLDER/busy.tsv: threads, seconds, load. Needs the quickstart's data and SMD_PYTHON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
(($# >= 1)) || { echo 'usage: busy_threads.sh FOLDER [BUSY] [ITERATIONS] [ROUNDS]' >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd) busy=${2:-2} iterations=${3:-150} rounds=${4:-2} pids=()
python=${SMD_PYTHON:-.venv/bin/python}
unset OMP_NUM_THREADS MKL_NUM_THREADS OMP_WAIT_POLICY KMP_BLOCKTIME

trap '((${#pids[@]} == 0)) || kill "${pids[@]}"' EXIT
for ((i = 0; i < busy; i++)); do
    while :; do :; done &
    pids+=($!)
done
sleep 5

train() { # NAME [VARIABLE=VALUE ...]
    local name=$1 begin=$SECONDS
    shift
    env "$@" "$python" tools/train.py configs/shapes/mask-rcnn_r18_fpn_shapes.py \
        --work-dir "$folder/run" --cfg-options train_cfg.max_iters="$iterations" \
        train_cfg.val_interval=100000 default_hooks.checkpoint.interval=100000 \
        >"$folder/$name.log" 2>&1
    rm -rf "$folder/run"
    printf '%s\t%s\t%s\n' "$name" $((SECONDS - begin)) "$(cut -d' ' -f1 /proc/loadavg)" |
        tee -a "$folder/busy.tsv"
}

spinning=$(nproc)
for ((round = 0; round < rounds; round++)); do
    # shellcheck disable=SC2046
    train chosen $("$python" smd_mmdet/launch/threads.py | sed -n 's/^export //p')
    train 1 OMP_NUM_THREADS=1
    train 2 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
    train spinning OMP_NUM_THREADS="$spinning" OMP_WAIT_POLICY=ACTIVE
done
