#!/usr/bin/env bash
# Runs everything that must hold: format, lint, types, tests. Arguments go to pytest:
#   bash tests/run.sh -k resume
# All stages run even when one fails; pytest is the last, so that its closing line is the last one printed.
set -uo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
bash launch/environment.sh dev || exit 1
python=.venv/bin/python
failed=()
# torch.compile leaves semaphores to Python's resource tracker, which would say so after pytest's closing line.
export PYTHONWARNINGS="ignore:resource_tracker:UserWarning"

stage() {
    local name="$1"
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

stage "ruff check" "$python" -m ruff check .
stage "ruff format" "$python" -m ruff format --check .
stage "mypy" "$python" -m mypy
if [ "${#failed[@]}" -gt 0 ]; then
    printf '== FAILED before the tests: %s\n' "$(IFS=,; echo "${failed[*]}")"
fi
stage "pytest" "$python" -m pytest "$@"
[ "${#failed[@]}" -eq 0 ]
