#!/usr/bin/env bash
# Runs the Python tests and examples against the installed package. Usage: ci/test_python.sh [PYTEST OPTIONS]
set -euo pipefail
cd "$(dirname "$0")/.."

# The build for tests has them, so that a test which finds none has found a mistake.
export PROCESSION_CRASH_POINTS_EXPECTED=1
exec "${VENV:-.venv}/bin/python" -X dev -m pytest -q "$@"
