#!/usr/bin/env bash
# Finds or makes a Python that runs smd_mmdet, and prints its path:
#
#   SMD_PYTHON=$(bash tools/setup_env.sh [--tests])
#
# When it is sourced instead, it exports SMD_PYTHON. --tests adds what the tests need.
# It takes the first of these that there is:
#   1. the Python that SMD_PYTHON names;
#   2. the active virtual or conda environment, if it imports mmdet and mmcv.ops;
#   3. .venv in the repository. This script makes it, with Python 3.11 and the versions
#      in requirements/. It compiles mmcv's ops once and keeps them as a wheel in the
#      user's cache folder.
# To 1 and 2 only packages that are missing are added, and none is replaced.
#
# For 3, SMD_TORCH_SPEC names another torch than requirements/stack.txt, such as
# torch==2.13.0+cpu.

if [[ ${BASH_SOURCE[0]} != "$0" ]]; then
    SMD_PYTHON=$(bash "${BASH_SOURCE[0]}") || return
    export SMD_PYTHON
    return 0
fi

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tests=
case "$*" in
    '') ;;
    --tests) tests=yes ;;
    *) die 'usage: setup_env.sh [--tests]' ;;
esac

venv=$root/.venv
log=$venv/setup.log
cache=${XDG_CACHE_HOME:-$HOME/.cache}/smd_mmdet
stack=$root/requirements/stack.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1

# why_not PYTHON: prints why this Python cannot run MMDetection; nothing if it can.
why_not() {
    local said
    # The folder is changed because Python would import from the current one.
    said=$(cd / && "$1" -W ignore -c "$import_stack" 2>&1) ||
        said="it does not run: $(tail -n 1 <<<"$said")"
    echo "$said"
}

import_stack=$(cat <<'PY'
import importlib
import os
import sys

def fault(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return f'{name} is missing' if error.name == name else f'{name}: {error}'
    except BaseException as error:
        return f'{name} fails to import: {error or type(error).__name__}'

if sys.version_info < (3, 10):
    faults = ['Python is older than 3.10']
else:
    # What a package prints while it is imported is no fault.
    keep = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    names = ('torch', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet')
    faults = [fault(name) for name in names]
    sys.stdout.flush()
    os.dup2(keep, 1)
faults = [' '.join(str(fault).split()) for fault in faults if fault]
missing = [f.split()[0] for f in faults if f.endswith(' is missing')]
other = [f for f in faults if not f.endswith(' is missing')]
# mmcv.ops is part of mmcv, and mmdet fails when mmcv does: name the cause once.
if 'mmcv' in missing:
    other = []
if missing:
    other.insert(0, ', '.join(missing) + ' missing')
if other:
    print('; '.join(other))
PY
)

# not_found PYTHON NAME...: prints the modules that this Python cannot find.
not_found() {
    (cd / && "$1" -c 'import sys
from importlib.util import find_spec
print(*[name for name in sys.argv[1:] if find_spec(name) is None])' "${@:2}")
}

# adopt PYTHON: makes an environment that is not ours run smd_mmdet. It adds the
# packages that are missing and replaces none.
adopt() {
    local python=$1 lacking origin constraints
    local names=(jinja2 matplotlib numpy plotly pyarrow rich scipy wrapt)
    [[ -z $tests ]] || names+=(hypothesis mypy psutil pytest pytest_cov ruff)
    lacking=$(not_found "$python" "${names[@]}")
    if [[ -n $lacking ]]; then
        say "adding to the environment of $python: $lacking"
        constraints=$(mktemp)
        # shellcheck disable=SC2064  # expanded now, because $constraints is local
        trap "rm -f '$constraints'" EXIT
        "$python" -m pip list --format=freeze >"$constraints" 2>/dev/null ||
            die "$python has no pip: install $lacking there yourself"
        # shellcheck disable=SC2086  # split into names on purpose
        "$python" -m pip install -q -c "$constraints" $lacking >&2 ||
            die "could not add $lacking to the environment of $python"
    fi
    origin=$(cd / && "$python" -c 'from importlib.util import find_spec
spec = find_spec("smd_mmdet")
print(*(spec.submodule_search_locations if spec else ()))')
    if [[ $origin != "$root/smd_mmdet" ]]; then
        say "linking this checkout of smd_mmdet into the environment of $python"
        "$python" -m pip install -q --no-deps -e "$root" >&2 ||
            die "could not install smd_mmdet into the environment of $python"
    fi
}

if [[ -n ${SMD_PYTHON:-} ]]; then
    python=$(command -v "$SMD_PYTHON") && [[ -x $python ]] ||
        die "SMD_PYTHON=$SMD_PYTHON is not a program"
    # Relative paths would change meaning with the folder.
    python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
    if [[ $python != "$venv/bin/python" ]]; then
        fault=$(why_not "$python")
        [[ -z $fault ]] || die "SMD_PYTHON=$SMD_PYTHON cannot run MMDetection: $fault"
        adopt "$python"
        echo "$python"
        exit
    fi
fi

active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
if [[ -n $active && $active != "$venv" && -x $active/bin/python ]]; then
    fault=$(why_not "$active/bin/python")
    if [[ -z $fault ]]; then
        adopt "$active/bin/python"
        echo "$active/bin/python"
        exit
    fi
    say "not using the active environment $active: $fault"
fi

# ------------------------------------------------------------------ our own .venv

pinned() { sed -n "s/^$1==//p" "$stack"; }

# A torch that was once asked for by SMD_TORCH_SPEC stays, also when that is not set.
torch_spec=${SMD_TORCH_SPEC:-$(cat "$venv/torch-spec" 2>/dev/null || true)}
torch_spec=${torch_spec:-torch==$(pinned torch)}
mmcv=$(pinned mmcv)

# What the environment was made from. It holds the path of the checkout, so one that
# was moved counts as changed.
state=$({ echo "$root $torch_spec" && cat "$root"/requirements/*.txt "$root"/{setup.py,pyproject.toml}; } | cksum)

if_ready_print_and_exit() {
    if [[ "$(cat "$venv/stamp" 2>/dev/null)" == "$state" && -x $venv/bin/python ]]; then
        echo "$venv/bin/python"
        exit
    fi
}

# wait_for_lock FD WHAT: waits until no other call of this script does WHAT. Where there
# is no flock, two calls at once may do the same work twice.
wait_for_lock() {
    command -v flock >/dev/null || return 0
    flock -n "$1" && return
    say "waiting for another set-up that $2"
    flock "$1"
}

# progress WHAT FROM: shows that WHAT goes on. On a terminal that is one line, kept up
# to date; elsewhere a line a minute. Where the log, from line FROM on, has lines of
# ninja such as [3/80], the compiled files are counted.
progress() {
    local what=$1 from=$2 begin=$SECONDS shown=$SECONDS line count
    while sleep 1; do
        kill -0 $$ 2>/dev/null || return 0
        [[ -t 2 ]] || ((SECONDS - shown >= 60)) || continue
        shown=$SECONDS
        line="$what: $((SECONDS - begin)) s"
        count=$(tail -n "+$from" "$log" | grep -aoE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1) || true
        count=${count//[][ ]/}
        [[ -z $count ]] || line+=", ${count%/*} of ${count#*/} files compiled"
        if [[ -t 2 ]]; then
            printf '\r\033[K%s' "$line" >&2
        else
            say "$line"
        fi
    done
}

# run WHAT COMMAND...: runs a command with its output in the log, and shows progress.
run() {
    local what=$1 begin=$SECONDS status=0 from monitor reason
    shift
    printf '=== %s\n' "$what" >>"$log"
    from=$(wc -l <"$log")
    progress "$what" "$from" >/dev/null &
    monitor=$!
    "$@" >>"$log" 2>&1 || status=$?
    kill "$monitor" 2>/dev/null || true
    wait "$monitor" 2>/dev/null || true
    [[ ! -t 2 ]] || printf '\r\033[K' >&2
    if ((status)); then
        reason=$(tail -n "+$from" "$log" | grep -aE '^ *(ERROR|OSError|Error):' | tail -n 1) || true
        die "$what failed${reason:+ (${reason## })}; all of its output is in $log"
    fi
    say "$what: $((SECONDS - begin)) s"
}

python_311() {
    local name
    for name in python3.11 python3 python; do
        name=$(command -v "$name") || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    die 'Python 3.11 is needed and was not found; or set SMD_PYTHON to a Python that imports mmdet'
}

need_compiler() {
    echo '#include <vector>' | "${CXX:-c++}" -std=c++17 -fsyntax-only -x c++ - 2>/dev/null ||
        die "mmcv's ops must be compiled and there is no C++17 compiler: install one (Debian: g++) or set CXX"
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        die "mmcv's ops must be compiled and Python.h is missing: install Python's headers (Debian: python3.11-dev)"
}

make_venv() {
    local base
    base=$(python_311) || exit
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$base cannot make virtual environments (Debian: install python3.11-venv)"
    # That a compiler is missing is better said now than after a long download.
    compgen -G "$cache/wheels/mmcv-$mmcv-torch-*-cp311-$(uname -m)-*/*.whl" >/dev/null ||
        need_compiler "$base"
    say 'making an environment in .venv: some minutes, once'
    # A .venv without a stamp is what an interrupted call left.
    rm -rf "$venv"
    mkdir "$venv"
    touch "$venv/made-by-setup_env"
    [[ $torch_spec == "torch==$(pinned torch)" ]] || echo "$torch_spec" >"$venv/torch-spec"
    run 'making .venv' "$base" -m venv "$venv"
}

# jobs_that_fit: prints how many files to compile at a time. Each takes up to 2 GB.
jobs_that_fit() {
    local cores memory
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    memory=$(awk '/^MemAvailable/ {print int($2 / 2e6)}' /proc/meminfo 2>/dev/null || true)
    memory=${memory:-$cores}
    echo $((memory < 1 ? 1 : memory < cores ? memory : cores))
}

# build_mmcv FOLDER OPS: puts a wheel of mmcv into a folder; OPS is cpu or cuda.
build_mmcv() {
    local folder=$1 ops=$2 work options
    need_compiler "$venv/bin/python"
    # No other call builds now, as this one holds the lock: what lies here is left from a
    # build that was interrupted.
    rm -rf "$cache"/wheels/build.*
    work=$(mktemp -d "$cache/wheels/build.XXXXXX")
    # shellcheck disable=SC2064  # expanded now, because $work is local
    trap "rm -rf '$work'" EXIT
    mkdir "$work/tmp" "$work/wheel"
    options=(MMCV_WITH_OPS=1 MAX_JOBS="${MAX_JOBS:-$(jobs_that_fit)}" TMPDIR="$work/tmp"
        PATH="$venv/bin:$PATH")
    if [[ $ops == cuda ]]; then
        # CPATH: the headers that come with torch's own CUDA packages.
        options+=(FORCE_CUDA=1 CPATH="$(printf '%s:' "$venv"/lib/python*/site-packages/nvidia/cu*/include)${CPATH:-}")
    else
        # mmcv would build for any GPU that torch sees.
        options+=(FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=)
    fi
    say "building mmcv's ops once: about 10 minutes on 2 cores; the wheel is kept in $cache/wheels"
    run "building mmcv's ops" env "${options[@]}" "$venv/bin/python" -m pip wheel -v \
        --no-deps --no-build-isolation --no-cache-dir -w "$work/wheel" "mmcv==$mmcv"
    mkdir -p "$folder"
    mv "$work"/wheel/mmcv-*.whl "$folder/"
    rm -rf "$work"
}

# kind_of_ops: prints cuda where torch sees a GPU and there is a CUDA toolkit to build
# with, and cpu elsewhere.
kind_of_ops() {
    "$venv/bin/python" -W ignore -c 'import sys, torch
if not torch.cuda.is_available():
    print("cpu")
    sys.exit()
from torch.utils.cpp_extension import CUDA_HOME
print("cuda" if CUDA_HOME else "cpu")
if not CUDA_HOME:
    print("there is a GPU but no CUDA toolkit (nvcc): building mmcv for the CPU only; "
          "for the GPU set CUDA_HOME, remove .venv and start again", file=sys.stderr)'
}

install_mmcv() {
    local torch ops folder wheel
    torch=$("$venv/bin/python" -W ignore -c 'import torch; print(torch.__version__)')
    ops=$(kind_of_ops)
    folder=$cache/wheels/mmcv-$mmcv-torch-$torch-cp311-$(uname -m)-$ops
    mkdir -p "$cache/wheels"
    exec 9>"$cache/wheels/lock"
    if ! compgen -G "$folder/*.whl" >/dev/null; then
        wait_for_lock 9 "builds mmcv's ops"
        compgen -G "$folder/*.whl" >/dev/null || build_mmcv "$folder" "$ops"
    fi
    exec 9>&-
    wheel=$(compgen -G "$folder/*.whl" | head -n 1)
    run "installing mmcv $mmcv" "$venv/bin/python" -m pip install --no-deps --force-reinstall "$wheel"
}

if_ready_print_and_exit
exec 8<"$root"
wait_for_lock 8 'works on this checkout'
if_ready_print_and_exit
if [[ -e $venv && ! -e $venv/made-by-setup_env ]]; then
    # It may be someone's own, even if it is empty.
    die "$venv exists and was not made by this script: activate it, set SMD_PYTHON, or move it away"
fi

if [[ -e $venv/stamp && -x $venv/bin/python ]]; then
    rm "$venv/stamp"
    [[ -z ${SMD_TORCH_SPEC:-} ]] || echo "$SMD_TORCH_SPEC" >"$venv/torch-spec"
    say 'requirements changed: updating .venv'
else
    make_venv
fi
pip=("$venv/bin/python" -m pip install)
run "installing $torch_spec" "${pip[@]}" "$torch_spec" -r "$root/requirements/build.txt"
run 'installing libraries' "${pip[@]}" -r "$root/requirements/runtime.txt" -r "$root/requirements/tests.txt"
run 'installing mmengine, mmdet and mmpretrain' "${pip[@]}" --no-deps \
    "mmengine==$(pinned mmengine)" "mmdet==$(pinned mmdet)" "mmpretrain==$(pinned mmpretrain)"
install_mmcv
run 'installing smd_mmdet' "${pip[@]}" --no-deps --no-build-isolation -e "$root"
fault=$(why_not "$venv/bin/python")
[[ -z $fault ]] || die "the new environment does not work: $fault; remove $venv and $cache/wheels and try again"
# The stamp comes last, so that an interrupted call leaves none.
echo "$state" >"$venv/stamp"
echo "$venv/bin/python"
