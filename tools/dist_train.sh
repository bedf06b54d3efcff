#!/usr/bin/env bash
# Trains with several processes, one for each GPU. On a machine without GPUs they share
# the cores.
#
#   bash tools/dist_train.sh CONFIG GPUS [ARGUMENT OF train.py ...]
#
# NNODES, NODE_RANK, MASTER_ADDR and PORT are as in MMDetection. Without PORT a run
# on one machine takes a free port.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($# >= 2)) || die 'usage: dist_train.sh CONFIG GPUS [ARGUMENT OF train.py ...]'
config=$1 processes=$2
[[ $config == *::* || -f $config ]] || die "no such config: $config"
launch_processes train.py "$processes" "$config" "${@:3}"
