#!/usr/bin/env bash
# Runs the tests on the maintained fork of the stack, in an environment of its own.
#
#   bash benchmarks/check_fork.sh FOLDER [ARGUMENT OF pytest ...]
#
# FOLDER gets the environment; what is in it is kept, so a second call only tests. The
# build of mmcv's operators takes about as long as that of mmcv 2.1.0.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
(($# >= 1)) || { echo 'usage: check_fork.sh FOLDER [ARGUMENT OF pytest ...]' >&2; exit 2; }
folder=$1
python=$folder/bin/python

[[ -x $python ]] || python3.11 -m venv "$folder"
if ! "$python" -W ignore -c 'import mmcv.ops, mmdet' 2>/dev/null; then
    install=("$python" -m pip install -q)
    "${install[@]}" "${SMD_TORCH_SPEC:-torch==2.13.0}" -r "$root/requirements/build.txt"
    "${install[@]}" -r "$root/requirements/runtime.txt" -r "$root/requirements/tests.txt"
    # mmdet of the fork imports imgaug, and that scikit-image.
    "${install[@]}" --no-deps onedl-mmengine==0.10.12 imaug imagecorruptions-imaug \
        scikit-image imageio tifffile lazy_loader networkx
    PATH=$folder/bin:$PATH MMCV_WITH_OPS=1 FORCE_CUDA=${FORCE_CUDA:-0} \
        "${install[@]}" --no-deps --no-build-isolation onedl-mmcv==2.3.6
    "${install[@]}" --no-deps --no-build-isolation onedl-mmdetection==3.5.1
fi
cd "$root"
SMD_PYTHON=$python PYTHONPATH=$root exec "$python" -m pytest -q "${@:2}"
