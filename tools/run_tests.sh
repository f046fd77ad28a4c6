#!/usr/bin/env bash
# Makes the environment (see environment.sh) and runs all tests. Arguments go to pytest:
#   bash tools/run_tests.sh                        everything
#   bash tools/run_tests.sh tests/unit -k split    some
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/environment.sh
use_environment -e '.[onnx,serving,weights,fast]' pytest ruff==0.17.5 playwright
exec "$PYTHON" -m pytest "$@"
