#!/bin/bash
# Measure everything this package does on a GPU; gpu.json and gpu.log go to FOLDER.
# usage: bench/gpu.sh [FOLDER [OPTIONS OF gpu.py...]]
#   bench/gpu.sh out/bench --dry-run                   the same steps, tiny, on the CPU
#   bench/gpu.sh out/bench --only 'forward.*_compile'  some sections
#   bench/gpu.sh out/bench --only 'training.*'         two minutes of training; weights in nano/
# environment: PYTHON, COMMIT (where the checkout has no history), LIMIT (seconds, 480)
set -u
folder=$(realpath -m "${1:-${OUT:-out/bench}}")
shift
cd "$(dirname "$0")/.." || exit
mkdir -p "$folder" || exit
rm -f "$folder/gpu.json" "$folder/gpu.log"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$PWD/test${PYTHONPATH:+:$PYTHONPATH}"

for python in ${PYTHON:-python3 .venv/bin/python}; do
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null && break
done # where none sees a GPU, the last one does for a dry run

# a process that lost the device goes on in a new one, with the next section
options=()
for _ in {1..6}; do
    left=$((${LIMIT:-480} - SECONDS))
    timeout -k 5 "$left" "$python" -X faulthandler bench/gpu.py "$folder" \
        --seconds $((left - 10)) "${options[@]}" "$@" 2>&1 | tee -a "$folder/gpu.log"
    status=${PIPESTATUS[0]}
    ((status > 2 && left > 30)) || break
    options=(--resume)
done
exit "$status"
