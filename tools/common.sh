# shellcheck shell=bash
# Functions that the scripts in this folder share. This file is sourced, not run.

# With CDPATH, `cd` could go elsewhere, and prints where.
root=$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# A relative path is told from where the user is; some scripts change the folder.
if [[ ${SMD_PYTHON:-} == */* && $SMD_PYTHON != /* ]]; then
    SMD_PYTHON=$PWD/$SMD_PYTHON
fi

say() { printf '%s\n' "$*" >&2; }

# show_help: prints the comment at the top of the script that runs.
show_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# pick_python: prints the Python to launch with and sets nothing up. That is SMD_PYTHON,
# or else the Python of the active environment, of the environment that
# tools/setup_env.sh made, or the first on PATH.
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

# check_number NAME VALUE: ends with an error unless the value can be a count.
check_number() {
    [[ $2 =~ ^[1-9][0-9]*$ ]] || die "$1 must be a whole number above 0, got '$2'"
}

# launch_processes SCRIPT GPUS ARG...: runs a script of this folder in so many processes,
# by torchrun. NNODES, NODE_RANK, MASTER_ADDR and PORT are as in MMDetection.
launch_processes() {
    local script=$1 processes=$2 python where
    shift 2
    check_number GPUS "$processes"
    python=$(pick_python) || exit
    if [[ -z ${PORT:-} && ${NNODES:-1} == 1 ]]; then
        # torchrun takes a free port, so that several runs can share one machine.
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
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    # The processes share the cores. Without this, each would start a thread on every one.
    eval "$("$python" -m smd_mmdet.launch.threads --steady --processes "$processes")"
    exec "$python" -W ignore "$root/tools/processes.py" "${where[@]}" \
        --nproc-per-node="$processes" "$root/tools/$script" "$@" --launcher pytorch
}

# launch_slurm SCRIPT PARTITION JOB_NAME ARG...: runs a script of this folder as a Slurm
# job. GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are as in MMDetection.
launch_slurm() {
    local script=$1 partition=$2 job=$3 python status=0 per_node
    local gpus=${GPUS:-8} cores=${CPUS_PER_TASK:-5}
    shift 3
    check_number GPUS "$gpus"
    per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    check_number GPUS_PER_NODE "$per_node"
    check_number CPUS_PER_TASK "$cores"
    command -v srun >/dev/null || die 'no srun: this is not a machine of a Slurm cluster'
    python=$(pick_python) || exit
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
    export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    # shellcheck disable=SC2086  # SRUN_ARGS is split into words on purpose
    srun --partition="$partition" --job-name="$job" --gres="gpu:$per_node" \
        --ntasks="$gpus" --ntasks-per-node="$per_node" --cpus-per-task="$cores" \
        --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "$python" -u "$root/tools/$script" "$@" --launcher slurm || status=$?
    case $status in
        0 | 2) exit "$status" ;; # 2: the processes have said which setting is wrong
    esac
    say "error: srun ended with status $status, as told above; what was written so far" \
        "is readable, and training goes on from the last checkpoint with --resume"
    exit 1
}
