#!/usr/bin/env bash
# Checks that no file holds what only means something on the machine it was written on, and that all text is tidy.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! git rev-parse --git-dir >/dev/null 2>&1; then
    echo "skipped: without git there is no telling what belongs to the repository"
    exit 0
fi

failed=0
mapfile -t files < <(git ls-files --cached --others --exclude-standard | grep -vE '(^|/)(Cargo\.lock|LICENSE-[A-Z]+)$' |
    while IFS= read -r file; do [[ -f $file ]] && echo "$file"; done)

forbid() { # forbid WHY PATTERN
    local found
    if found=$(grep -nHIE "$2" "${files[@]}"); then
        printf '%s:\n%s\n' "$1" "$found"
        failed=1
    fi
}

# Written with gaps in brackets, so that this file does not find itself.
forbid "an absolute path of one machine" '(^|[^A-Za-z0-9_.~-])/(roo[t]|hom[e]|wor[k]|User[s])/[A-Za-z0-9_.]'
forbid "the host of a package registry" '(crate[s]\.io|pyp[i]\.org|pythonhoste[d]\.org|npmj[s]\.(org|com)|piwheel[s]\.org)'
forbid "a conflict that was not resolved" '^(<{7} |>{7} |={7}$)'
forbid "work that was announced and not done" '\b(TOD[O]|FIXM[E]|XX[X])\b|unimplemented[!]|todo[!]'
forbid "blanks at the end of a line" '[[:blank:]]+$'

for file in "${files[@]}"; do
    case $file in
    *.rs | *.py | *.pyi | *.md | *.toml | *.sh | *.txt | Makefile)
        if [[ -s $file && -n $(tail -c 1 "$file") ]]; then
            echo "$file: no line end at its end"
            failed=1
        fi
        ;;
    esac
    case $file in
    ci/*.sh | .ci/run)
        if [[ ! -x $file ]]; then
            echo "$file: not executable"
            failed=1
        fi
        ;;
    esac
done

exit $failed
