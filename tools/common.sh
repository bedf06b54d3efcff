# shellcheck shell=bash
# Functions the scripts in this folder share; to be sourced.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# The Python to launch with, without setting anything up: the named one, that of
# the active environment, that of tools/setup_env.sh, or whichever comes first.
pick_python() {
    local env=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    if [[ -n ${SMD_PYTHON:-} ]]; then
        echo "$SMD_PYTHON"
    elif [[ -n $env && -x $env/bin/python ]]; then
        echo "$env/bin/python"
    elif [[ -x $root/.venv/bin/python ]]; then
        echo "$root/.venv/bin/python"
    else
        command -v python || command -v python3 || die 'no python found; set SMD_PYTHON'
    fi
}

# launch_processes SCRIPT GPUS ARG...: torchrun with MMDetection's variables.
launch_processes() {
    local script=$1 processes=$2 python cores where
    shift 2
    [[ $processes =~ ^[1-9][0-9]*$ ]] ||
        die "GPUS must be a whole number of processes above 0, got '$processes'"
    python=$(pick_python) || exit
    if [[ -z ${PORT:-} && ${NNODES:-1} == 1 ]]; then
        # A port of its own: several runs fit on one machine.
        where=(--standalone --local-addr=127.0.0.1)
    else
        where=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}"
            --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}")
        if [[ ${NODE_RANK:-0} == 0 ]]; then
            "$python" -c 'import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try: s.bind(("", int(sys.argv[1])))
except (OSError, OverflowError, ValueError): sys.exit(1)' "${PORT:-29500}" ||
                die "port ${PORT:-29500} is taken or not a port: set PORT to a free one"
        fi
    fi
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    # Without this, every process takes all cores.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}
    export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    exec "$python" -W ignore "$root/tools/processes.py" "${where[@]}" \
        --nproc-per-node="$processes" "$root/tools/$script" "$@" --launcher pytorch
}
