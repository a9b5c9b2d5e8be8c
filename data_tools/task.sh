#!/usr/bin/env bash
# One task of a preparation's stage, as a member of a SLURM job array: PYTHON STAGE
set -euo pipefail
exec "$1" -m data_tools.task "$2" "$SLURM_ARRAY_TASK_ID"
