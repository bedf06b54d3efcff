#!/usr/bin/env bash
# Tests with several processes; see dist_train.sh.
#
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENT OF test.py ...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($# >= 3)) || die 'usage: dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENT OF test.py ...]'
config=$1 checkpoint=$2 processes=$3
[[ $config == *::* || -f $config ]] || die "no such config: $config"
[[ $checkpoint == *://* || -f $checkpoint ]] || die "no such checkpoint: $checkpoint"
launch_processes test.py "$processes" "$config" "$checkpoint" "${@:4}"
