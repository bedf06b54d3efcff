#!/usr/bin/env bash
# Sets up what is needed and runs the tests; arguments go to pytest. Without any, files of
# tests run side by side, and the lines of smd_mmdet that ran are counted: fewer than
# 90 % fail the run.
#
# The page is tested in Chromium. Where it is missing and can be installed (as root,
# on Debian) that is tried once; without it those tests are skipped and say so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

install_chromium() {
    local tried=${XDG_CACHE_HOME:-$HOME/.cache}/smd_mmdet/chromium-tried
    if command -v chromium && command -v chromedriver; then
        return
    fi >/dev/null
    [[ $(id -u) == 0 && ! -e $tried ]] && command -v apt-get >/dev/null || return 0
    echo 'installing Chromium for the tests of the page (at most 5 minutes, once)' >&2
    mkdir -p "${tried%/*}" && touch "$tried"
    DEBIAN_FRONTEND=noninteractive timeout -k 10 300 bash -c 'apt-get -qq update &&
        apt-get -qq install -y --no-install-recommends chromium chromium-driver' \
        </dev/null >"$tried" 2>&1 ||
        echo "Chromium could not be installed, its tests are skipped; why is in $tried" >&2
}

SMD_PYTHON=$(bash tools/setup_env.sh --tests)
export SMD_PYTHON
install_chromium || true
if (($# == 0)); then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    set -- --cov --cov-report=term -n logical --maxprocesses 4 --dist loadfile \
        --no-loadscope-reorder
fi
exec "$SMD_PYTHON" -m pytest -rs "$@"
