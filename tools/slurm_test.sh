#!/usr/bin/env bash
# Tests as a Slurm job; see slurm_train.sh.
#
#   GPUS=8 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENT OF test.py ...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($# >= 4)) ||
    die 'usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENT OF test.py ...]'
config=$3 checkpoint=$4
[[ $config == *::* || -f $config ]] || die "no such config: $config"
[[ $checkpoint == *://* || -f $checkpoint ]] || die "no such checkpoint: $checkpoint"
launch_slurm test.py "$1" "$2" "$config" "$checkpoint" "${@:5}"
