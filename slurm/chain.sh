#!/usr/bin/env bash
# A chain of jobs for a run that is longer than a job may be, where the site forbids jobs to put themselves back:
#
#   bash slurm/chain.sh 5 [options of sbatch] slurm/pretrain.sbatch [section.key=value ...]
#
# Each job begins when the one before has ended, by its limit or a lost node too, and goes on from the newest checkpoint.
# One that ends for good (done, wrong input, gave up) takes those that still wait with it.
set -euo pipefail

if [ "$#" -lt 2 ] || [[ ! "$1" =~ ^[1-9][0-9]*$ ]]; then
    echo "chain: say: bash slurm/chain.sh COUNT [options of sbatch] SCRIPT [section.key=value ...]" >&2
    exit 2
fi
count="$1"
shift

# The name by which a job finds its followers; no other job of this user has it.
MEGATRAIN_CHAIN="chain-$(date +%Y%m%d-%H%M%S)-$$"
export MEGATRAIN_CHAIN
job="" dependency=()
for ((number = 1; number <= count; number++)); do
    # --no-requeue: only the followers go on, also after a lost node.
    job="$(sbatch --parsable --job-name="$MEGATRAIN_CHAIN" --no-requeue "${dependency[@]}" "$@")"
    job="${job%%;*}"
    echo "$job"
    dependency=(--dependency="afterany:$job")
done
echo "chain: $count jobs named $MEGATRAIN_CHAIN; scancel --name=$MEGATRAIN_CHAIN ends all" >&2
