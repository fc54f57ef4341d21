#!/usr/bin/env bash
# The main job on real input: Python's own library, parsed by many processes; then one process against many, and a
# small stress test.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${VENV:-.venv}/bin
out=target/run
mkdir -p "$out"

headline() {
    printf '\n== %s\n\n' "$1"
}

standard_library=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mapfile -t sources < <(find "$standard_library" -name '*.py' -not -path '*/site-packages/*' -not -path '*/dist-packages/*' | sort)

headline "procession map: parse the ${#sources[@]} source files of Python's own library"
echo "Some may be broken on purpose, as test data of Python's own parser: each of them fails by itself."
status=0
"$bin/procession" map examples/python/work.py:parse_source --ordered --timeout 60 \
    --output "$out/counts.jsonl" -- "${sources[@]}" || status=$?
if ((status > 1)); then
    echo "procession map ended with exit code $status" >&2
    exit "$status"
fi
"$bin/python" - "$out/counts.jsonl" "${#sources[@]}" <<'PYTHON'
import json, sys

path, expected = sys.argv[1], int(sys.argv[2])
with open(path, encoding="utf-8") as file:
    counts = [json.loads(line) for line in file]
totals = {key: sum(count[key] for count in counts) for key in ("lines", "functions", "classes", "imports")}
print(f"\n{len(counts):,} files parsed: " + ", ".join(f"{total:,} {key}" for key, total in totals.items()))
longest = max(counts, key=lambda count: count["lines"])
print(f"the longest is {longest['path']} with {longest['lines']:,} lines; all counts: {path}")
# So many can't be broken on purpose.
sys.exit(f"only {len(counts)} of {expected} files gave a result" if len(counts) < 0.95 * expected else 0)
PYTHON

headline "one process against a pool: 1,000 items of 10 ms"
"$bin/python" examples/python/one_process_or_many.py 1000

headline "a stress test: two named processes, each with its own function, against a server on loopback"
"$bin/python" examples/python/stress_template.py
