#!/usr/bin/env bash
# Python within the container: where a batch script wants a Python, name this program instead:
#
#   PYTHON=slurm/in-container.sh sbatch slurm/pretrain.sbatch
#
#   MEGATRAIN_IMAGE=megatrain.sif   the image, made from slurm/megatrain.def
#   MEGATRAIN_BIND=/scratch,/data   folders besides the current one that the run reads and writes
set -euo pipefail

gpus=()
[ ! -e /dev/nvidiactl ] || gpus=(--nv)
exec apptainer exec "${gpus[@]}" --bind "$PWD${MEGATRAIN_BIND:+,$MEGATRAIN_BIND}" --pwd "$PWD" \
    "${MEGATRAIN_IMAGE:-megatrain.sif}" /opt/megatrain/.venv/bin/python "$@"
