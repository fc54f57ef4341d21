#!/usr/bin/env bash
# Everything that can be judged without running the product. All checks run; the exit code tells whether all passed.
set -uo pipefail
cd "$(dirname "$0")/.."

bin=${VENV:-.venv}/bin
failed=()

check() { # check NAME COMMAND…
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "ok      $name"
    else
        printf 'FAILED  %s\n%s\n' "$name" "$output"
        failed+=("$name")
    fi
}

# rustfmt and clippy are parts of a Rust installation which some leave out.
component() { # component CARGO-COMMAND RUSTUP-NAME
    cargo "$1" --version >/dev/null 2>&1 && return
    if command -v rustup >/dev/null && rustup component add "$2" >/dev/null 2>&1; then
        cargo "$1" --version >/dev/null 2>&1 && return
    fi
    echo "skipped $2: this Rust installation does not have it"
    return 1
}

component fmt rustfmt && check "rustfmt" cargo fmt --all --check -- -l
component clippy clippy && check "clippy" cargo clippy --quiet --workspace --all-targets --all-features --locked -- -D warnings
check "ruff" "$bin/ruff" check --quiet .
check "ruff format" "$bin/ruff" format --quiet --check .
check "mypy" "$bin/mypy" --no-error-summary
if [[ -f python/procession/_native.pyi ]]; then
    allowlist=()
    [[ -f ci/stubtest_allowlist.txt ]] && allowlist=(--allowlist ci/stubtest_allowlist.txt)
    check "stubs" "$bin/python" -m mypy.stubtest --concise --ignore-disjoint-bases --mypy-config-file pyproject.toml \
        "${allowlist[@]}" procession._native
else
    check "stubs" false
fi
check "layers" ci/layers.sh
check "hygiene" ci/hygiene.sh

if ((${#failed[@]} > 0)); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
