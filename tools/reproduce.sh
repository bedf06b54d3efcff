#!/usr/bin/env bash
# Tests the paper's claims again, on models small enough for two CPU cores, and writes
# docs/reproduction.md: trains what is not trained yet, then draws and counts.
#
#   bash tools/reproduce.sh [--quick] [--jobs N] [--only PATTERN] [--page] [--list]
#
# Interrupted at any moment, it goes on the next time. About an hour and a half on two
# cores; --quick, a quarter of an hour, does the first seed of the main runs only, which
# a later call then need not do again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
SMD_PYTHON=$(bash "$root/tools/setup_env.sh")
export SMD_PYTHON PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$SMD_PYTHON" -W ignore -m studies.reproduction "$@"
