#!/usr/bin/env bash
# Sets up an environment and runs the tests in it:
#
#   bash tools/run_tests.sh [--coverage | ARGUMENT OF pytest ...]
#
# Without arguments, all tests run, several files at a time. With --coverage it is also
# counted which lines of smd_mmdet were run: fewer than 90 % of them are a failure. That
# takes half as long again.
#
# The report's page is tested in Chromium. Where that is missing, its installation is
# tried once (as root, on Debian); without Chromium those tests are skipped and say so.
# So are those of the site and the notebook where requirements/docs.txt cannot be added.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [[ $* == -h || $* == --help ]]; then
    show_help && exit
fi
cd "$root"

install_chromium() {
    local tried=${XDG_CACHE_HOME:-~/.cache}/smd_mmdet/chromium-tried
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

install_docs() {
    local needed=(ipykernel latex2mathml material mkdocs mkdocstrings_handlers nbclient)
    "$SMD_PYTHON" -c 'import importlib.util, sys
sys.exit(None in map(importlib.util.find_spec, sys.argv[1:]))' "${needed[@]}" && return
    local pip=("$SMD_PYTHON" -m pip --disable-pip-version-check)
    echo 'adding what builds the documentation (once)' >&2
    # What is there already stays as it is.
    timeout -k 10 300 "${pip[@]}" install -q --retries 0 -r requirements/docs.txt \
        -c <("${pip[@]}" list --format=freeze --exclude-editable) >&2 ||
        echo 'requirements/docs.txt could not be added: the tests of the site and of' \
            'the notebook are skipped' >&2
}

SMD_PYTHON=$(bash tools/setup_env.sh --tests)
export SMD_PYTHON
install_chromium || true
install_docs || true
# Each of these processes computes in one thread; none waits for another.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
coverage=()
if [[ ${1-} == --coverage ]]; then
    coverage=(--cov --cov-report=term) && shift
fi
if (($# == 0)); then
    cores=$("$SMD_PYTHON" smd_mmdet/launch/threads.py --cores)
    set -- -n "$cores" --maxprocesses 4 --dist loadfile --no-loadscope-reorder
fi
exec "$SMD_PYTHON" -m pytest -rsfE "${coverage[@]}" "$@"
