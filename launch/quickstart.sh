#!/usr/bin/env bash
# From nothing to generated text: environment, data, training, evaluation, export, in about five minutes after the
# installation on two CPU cores. Can be interrupted at any moment; run again, it goes on where it was.
# Usage: bash launch/quickstart.sh [CONFIG]      (default: configs/quickstart.yaml; configs/quickstart-long.yaml: 40 min)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
config="${1:-configs/quickstart.yaml}"
begun=$SECONDS

say() { printf '\n== %s\n' "$*"; }

bash launch/environment.sh run
installed=$SECONDS
python=.venv/bin/python

say "1/6 Prepare the bundled corpus: clean, deduplicate, split, tokenize, shard"
"$python" -m megatrain prepare configs/data/quickstart.yaml

say "2/6 Train ($config)"
code=0
"$python" -m megatrain train "$config" || code=$?
if [ "$code" -ne 0 ]; then
  [ "$code" -ne 75 ] || printf 'Interrupted and saved. Run the same command again to go on.\n'
  exit "$code"
fi
run=$("$python" -c 'import sys; from megatrain.config import load_config; print(load_config(sys.argv[1]).run.folder)' "$config")

say "3/6 Evaluate on text that was never trained on, beside n-gram models of the same tokens"
"$python" -m megatrain evaluate "$run" --split test --baselines

say "4/6 Export to Hugging Face safetensors and compare its logits with the model's"
"$python" -m megatrain export "$run"

say "5/6 Let the export go on from a few beginnings"
"$python" -m megatrain generate "$run/export" --max-new-tokens 60 --seed 7 \
  --prompt 'HAMLET' --prompt 'KING. My lord, ' --prompt '春' --prompt '明月'

say "6/6 Draw the loss curve"
"$python" -m megatrain report "$run"

say "Done in $((SECONDS - installed)) s (installation: $((installed - begun)) s)"
cat <<EOF
  corpus        data_tools/corpus/            shards, tokenizer   data/quickstart/
  run           $run/              metrics             $run/metrics.jsonl
  checkpoints   $run/checkpoints/  events              $run/events.jsonl
  loss curve    $run/loss.png      export              $run/export/  (loads with transformers)
Next: $python -m megatrain generate $run --prompt 'ROMEO'
EOF
