#!/usr/bin/env bash
# Makes bench/load/.rivals: the load generators that ours is compared with, and nginx, the server that all of them ask.
#
#   bench/load/setup.sh                 what is not there yet; quick when nothing is missing
#   bench/load/setup.sh wrk oha         only these
#   PYTHON=python3.13 bench/load/setup.sh locust
#
# Nothing is installed into the system. Whatever cannot be had here is told, and run.py leaves it out.
set -uo pipefail
cd "$(dirname "$0")"
rivals=$PWD/.rivals
mkdir -p "$rivals/bin"

oha_version=1.16.0
locust_version=2.47.0

have() { # have PROGRAM: from here or from the system
    PATH="$rivals/bin:$rivals/debian/usr/bin:$rivals/debian/usr/sbin:$PATH:/usr/sbin" type -P "$1" >/dev/null
}

# The programs of Debian's packages, with those libraries that are not installed, unpacked beside each other.
debian() { # debian PACKAGE…
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local packages
    packages=$(apt-get install --simulate --no-install-recommends "$@" 2>/dev/null | awk '$1 == "Inst" { print $2 }')
    [ -n "$packages" ] || return 1
    mkdir -p "$rivals/debian"
    (
        cd "$(mktemp -d)" && trap 'rm -rf "$PWD"' EXIT
        # shellcheck disable=SC2086
        apt-get download --quiet $packages >/dev/null 2>&1 || exit 1
        for archive in *.deb; do
            dpkg-deb --extract "$archive" "$rivals/debian" || exit 1
        done
    )
}

oha() { cargo install --quiet --locked --root "$rivals" --version "$oha_version" oha; }

# Goose is a library: whoever tests with it writes a program.
goose() {
    CARGO_TARGET_DIR="$rivals/goose" cargo build --quiet --locked --release --manifest-path goose/Cargo.toml &&
        cp "$rivals/goose/release/goose-get" "$rivals/bin/goose-get"
}

locust() {
    [ -x "$rivals/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$rivals/venv" || return 1
    "$rivals/venv/bin/python" -m pip install --quiet --disable-pip-version-check "locust==$locust_version" &&
        ln -sf ../venv/bin/locust "$rivals/bin/locust"
}

missing=()
get() { # get NAME PROGRAM COMMAND…
    local name=$1 program=$2
    shift 2
    if ((${#wanted[@]})) && [[ " ${wanted[*]} " != *" $name "* ]]; then
        return
    fi
    have "$program" && return
    echo "bench/load/setup.sh: getting $name" >&2
    "$@" && have "$program" || missing+=("$name")
}

wanted=("$@")
get nginx nginx debian nginx
get wrk wrk debian wrk
get h2load h2load debian nghttp2-client
get ab ab debian apache2-utils
get oha oha oha
get goose goose-get goose
get locust locust locust
if ((${#missing[@]})); then
    echo "bench/load/setup.sh: not to be had here: ${missing[*]}" >&2
fi
