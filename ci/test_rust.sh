#!/usr/bin/env bash
# Runs the tests of the crates: units, integration, documentation, examples.
set -euo pipefail
cd "$(dirname "$0")/.."

# The extension module cannot be linked into a test program; tests/python tests it.
scope=(--workspace --exclude procession-py --all-features --locked)

cargo test "${scope[@]}" --no-run --quiet
# Compiled before, so that this limit is for running alone: a test of ours that hangs is a failure, not a wait.
timeout --kill-after=10 600 cargo test "${scope[@]}"
