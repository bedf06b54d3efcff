#!/usr/bin/env bash
# Trains as a Slurm job, one process for each GPU; the arguments are MMDetection's.
#
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENT OF train.py ...]
#
# GPUS (default 8) is the number of processes, GPUS_PER_NODE (default: GPUS, at most 8) the
# number on each node, and CPUS_PER_TASK (default 5) the number of cores of each process.
# SRUN_ARGS are further arguments of srun.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($# >= 4)) ||
    die 'usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENT OF train.py ...]'
config=$3
[[ $config == *::* || -f $config ]] || die "no such config: $config"
launch_slurm train.py "$1" "$2" "$config" --work-dir="$4" "${@:5}"
