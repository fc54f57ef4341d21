#!/usr/bin/env bash
# Runs the Python tests and examples against the installed package, in two runs that share them
# (tests/python/lanes.py). Usage: ci/test_python.sh [PYTEST OPTIONS]
set -euo pipefail
cd "$(dirname "$0")/.."

# The build for tests has them, so that a test which finds none has found a mistake.
export PROCESSION_CRASH_POINTS_EXPECTED=1

claims=$(mktemp -d)
other=
trap '[[ -z $other ]] || kill "$other" 2>/dev/null || true; rm -rf "$claims"' EXIT
run() { "${VENV:-.venv}/bin/python" -X dev -m pytest -q --claims="$claims" "$@"; }

run --backwards "$@" >"$claims/.backwards.log" 2>&1 &
other=$!
status=0
run "$@" || status=$?
other_status=0
wait "$other" || other_status=$?
other=
echo "the other half:"
cat "$claims/.backwards.log"
exit $((status != 0 ? status : other_status))
