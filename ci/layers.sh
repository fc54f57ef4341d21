#!/usr/bin/env bash
# Checks the arrows of ARCHITECTURE.md: who may use whom.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0

# forbid WHY PATTERN FILE… : no code line of the files may match. Comments may name what they talk about, and tests, which
# stand at the end of a file, may use what they like.
forbid() {
    local why=$1 pattern=$2 found
    shift 2
    (($# > 0)) || return 0
    if found=$(awk 'FNR == 1 { tests = 0 } /^#\[cfg\(test\)\]/ { tests = 1 }
        !tests && !/^[[:space:]]*\/\// { print FILENAME ":" FNR ":" $0 }' "$@" | grep -E "^[^:]+:[0-9]+:.*$pattern"); then
        printf '%s:\n%s\n' "$why" "$found"
        failed=1
    fi
}

files() { # files DIRECTORY [EXCLUDED PATH PATTERN]
    find "$1" -name '*.rs' ${2:+-not -path "$2"} 2>/dev/null | sort
}

engine=crates/procession/src
mapfile -t above_os < <(files $engine "$engine/os/*")
mapfile -t all_engine < <(files $engine)
mapfile -t load < <(files crates/procession-load/src)
mapfile -t command < <(files crates/procession-cli/src)

forbid "only os/ talks to the operating system" '\b(libc|rustix)::|\buse (libc|rustix)\b' "${above_os[@]}"
forbid "the engine knows no Python" '\b(pyo3|PyObject|PyAny)\b' "${all_engine[@]}"
forbid "the engine knows no terminal" '\b(println|print|dbg)!|\b(clap|indicatif)\b' "${all_engine[@]}"
forbid "the engine uses no crate above it" '\bprocession_(load|cli|py)\b' "${all_engine[@]}"
forbid "the load crate never prints and never reads argv" '\b(println|eprintln|print|eprint|dbg)!|env::args' "${load[@]}"
forbid "the load crate uses no crate above it" '\bprocession_(cli|py)\b|\bpyo3\b' "${load[@]}"
forbid "the command knows no Python objects" '\b(pyo3|procession_py)\b' "${command[@]}"

# Inside the engine each module may use what is to its right: pool, channel, shm, os.
inside() { # inside MODULE FORBIDDEN-MODULES
    local sources=()
    mapfile -t sources < <(
        files "$engine/$1"
        find "$engine" -maxdepth 1 -name "$1.rs"
    )
    forbid "$1 uses only what is below it" "\bcrate::($2)::" "${sources[@]}"
}
inside os 'shm|sync|channel|pool|process'
inside shm 'sync|channel|pool|process'
inside sync 'shm|channel|pool|process'
inside channel 'pool|process'
inside process 'pool|channel'
inside connection 'shm|sync|channel|pool|process|queue'
inside queue 'channel|pool|process'
inside watch 'pool|process'

# A dependency is an arrow too, even if no line of code uses it yet.
dependencies() {
    sed -n '/^\[dependencies\]/,/^\[/p' "crates/$1/Cargo.toml"
}
if dependencies procession | grep -nE '^(pyo3|clap|indicatif|procession)'; then
    echo "crates/procession/Cargo.toml: the engine depends on nothing above it"
    failed=1
fi
if dependencies procession-load | grep -nE '^(pyo3|clap|indicatif|procession-(cli|py))'; then
    echo "crates/procession-load/Cargo.toml: the load crate depends on the engine, not on what is above itself"
    failed=1
fi

exit $failed
