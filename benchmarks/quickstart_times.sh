#!/usr/bin/env bash
# How long the quickstart takes, in checkouts of their own: old against new, in turn.
#
#   bash benchmarks/quickstart_times.sh FOLDER OLD_COMMIT NEW_COMMIT [ROUNDS] [BUSY]
#
# Each round does, for either commit: empty caches, the wheel cached, .venv there. With a
# number of BUSY processes that do nothing but compute, it is measured on a busy machine.
# An OMP_NUM_THREADS that is set holds for all runs: the best setting by hand, say.
# A line per run goes to FOLDER/times.tsv: commit, case, seconds, exit status, load.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
(($# >= 3)) || { echo 'usage: quickstart_times.sh FOLDER OLD NEW [ROUNDS] [BUSY]' >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd) rounds=${4:-1} busy=${5:-0} pids=()
unset SMD_PYTHON VIRTUAL_ENV CONDA_PREFIX

for ((i = 0; i < busy; i++)); do
    while :; do :; done &
    pids+=($!)
done
((busy == 0)) || trap 'kill "${pids[@]}"' EXIT

measure() { # COMMIT CASE
    local begin=$SECONDS status=0
    XDG_CACHE_HOME=$folder/cache-$1 bash "$folder/$1/tools/quickstart.sh" \
        >"$folder/$1-$2.log" 2>&1 || status=$?
    printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" $((SECONDS - begin)) "$status" \
        "$(cut -d' ' -f1 /proc/loadavg)" | tee -a "$folder/times.tsv"
}

for ((round = 0; round < rounds; round++)); do
    for commit in "$2" "$3"; do
        rm -rf "${folder:?}/$commit" "$folder/cache-$commit"
        git clone -q "$root" "$folder/$commit"
        git -C "$folder/$commit" checkout -q "$commit"
        measure "$commit" empty
        rm -rf "$folder/$commit"/{.venv,data,work_dirs}
        measure "$commit" wheel
        rm -rf "$folder/$commit"/{data,work_dirs}
        measure "$commit" venv
    done
done
