#!/usr/bin/env bash
# Builds the Rust reference with broken links denied, and checks the links and generated pages of docs/.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${VENV:-.venv}/bin/python

# Only libraries: the command's program has the engine's name, and nothing to tell that its library does not.
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --lib --no-deps --document-private-items --locked --quiet
"$python" ci/check_links.py
"$python" ci/reference.py --check
echo "the Rust reference is at target/doc/procession/index.html, everything else in docs/"
