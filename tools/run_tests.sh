#!/usr/bin/env bash
# Sets up what is needed and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SMD_PYTHON=$(bash tools/setup_env.sh --tests)
export SMD_PYTHON
exec "$SMD_PYTHON" -m pytest "$@"
