#!/usr/bin/env bash
# Finds or makes a Python that runs smd_mmdet, and prints its path:
#
#   SMD_PYTHON=$(bash tools/setup_env.sh [--tests])
#
# When it is sourced instead, it exports SMD_PYTHON. tools/setup_env.py does the work and
# says what it does; this script only finds a Python to run it with.

if [[ ${BASH_SOURCE[0]} != "$0" ]]; then
    SMD_PYTHON=$(bash "${BASH_SOURCE[0]}") || return
    export SMD_PYTHON
    return 0
fi

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for python in python3.{11,12,13,10} python3 python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        exec "$python" "$root/tools/setup_env.py" "$@"
    fi
done
if command -v uv >/dev/null; then
    export UV_PYTHON_INSTALL_DIR=${XDG_CACHE_HOME:-~/.cache}/smd_mmdet/python
    [[ -e $UV_PYTHON_INSTALL_DIR ]] || say 'getting Python 3.11 by uv, once'
    run=(uv run --quiet --no-project --python 3.11 python)
    "${run[@]}" -c '' 2>/dev/null ||
        die 'uv cannot get Python 3.11: is this machine offline? Start again when it' \
            'is not, or install Python 3.11 (Debian: python3.11 and python3.11-venv)'
    exec "${run[@]}" "$root/tools/setup_env.py" "$@"
fi
die 'no Python 3.10 to 3.13 was found: install one (Debian: python3.11 and' \
    'python3.11-venv; or uv, which brings its own)'
