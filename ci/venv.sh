#!/usr/bin/env bash
# Makes the virtual environment that everything else uses, or leaves it alone if it fits.
# Usage: ci/venv.sh PYTHON VENV
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
venv=$2
stamp=$venv/.python-stamp

if ! command -v "$python" >/dev/null; then
    echo "there is no $python here: install Python 3.9 or newer, or name another one, as in 'make PYTHON=python3.12'" >&2
    exit 1
fi
identity=$("$python" -c 'import sys; print(sys.implementation.name, sys.version.split()[0], sys.base_prefix)')
if [[ -x $venv/bin/python && -f $stamp && $(cat "$stamp") == "$identity" ]]; then
    exit 0
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
    echo "$python is $identity, but Python 3.9 or newer is needed; name another one, as in 'make PYTHON=python3.12'" >&2
    exit 1
fi

echo "making $venv with $identity"
rm -rf "$venv"
if ! "$python" -m venv "$venv" 2>"${TMPDIR:-/tmp}/venv-error.$$"; then
    # Debian ships Python without the part of venv that installs pip; virtualenv brings its own.
    rm -rf "$venv"
    if ! "$python" -m virtualenv --quiet "$venv" 2>/dev/null; then
        cat "${TMPDIR:-/tmp}/venv-error.$$" >&2
        rm -f "${TMPDIR:-/tmp}/venv-error.$$"
        echo "$python cannot make a virtual environment: install its venv module (on Debian and Ubuntu:" \
            "apt-get install python3-venv) or virtualenv" >&2
        exit 1
    fi
fi
rm -f "${TMPDIR:-/tmp}/venv-error.$$"
echo "$identity" >"$stamp"
