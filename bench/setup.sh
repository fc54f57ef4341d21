#!/usr/bin/env bash
# Makes bench/.venv: the rivals of requirements.txt and a release build of procession from this source tree.
#
#   bench/setup.sh                 everything; quick when nothing changed
#   bench/setup.sh --rivals-only   leave procession alone (for example to run with PYTHONPATH=python)
#   PYTHON=python3.13 bench/setup.sh
set -euo pipefail
cd "$(dirname "$0")"

rivals_only=no
for argument in "$@"; do
    case "$argument" in
        --rivals-only) rivals_only=yes ;;
        *) echo "bench/setup.sh: unknown argument '$argument'; only --rivals-only is known" >&2; exit 2 ;;
    esac
done

if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

stamp=.venv/requirements.installed
if ! cmp --silent requirements.txt "$stamp"; then
    if ! pip install --quiet --requirement requirements.txt; then
        echo "bench/setup.sh: not all rivals install together; trying them one by one" >&2
        while IFS= read -r requirement; do
            case "$requirement" in ''|'#'*) continue ;; esac
            pip install --quiet "$requirement" ||
                echo "bench/setup.sh: $requirement does not install here; its rows will say so" >&2
        done < requirements.txt
    fi
    cp requirements.txt "$stamp"
fi

if [ "$rivals_only" = no ]; then
    # Without build isolation maturin is fetched once, not at each call.
    .venv/bin/python -c 'import maturin' 2>/dev/null || pip install --quiet 'maturin>=1.9,<2'
    PATH="$PWD/.venv/bin:$PATH" pip install --quiet --no-build-isolation --no-deps ..
fi
