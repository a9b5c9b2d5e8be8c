"""The model card: what a reader of an exported folder should know of the model's origin."""

from __future__ import annotations

from dataclasses import dataclass

from megatrain import __version__
from megatrain.checkpoint.manifest import Manifest
from megatrain.config import ModelConfig
from megatrain.data.tokenizer import Tokenizer
from megatrain.export.identity import SameTokenizer
from megatrain.export.verify import Verified
from megatrain.model.flops import count_parameters

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [llama, megatrain]
---

# {name}

A decoder of the Llama architecture with {parameters:,} parameters ({non_embedding:,} without embeddings),
pretrained with megatrain {version}. It is a base model: it continues text. No licence is stated here; add the
one that its training data allow.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
ids = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))
```

## Training

| | |
|---|---|
{facts}

## Format

- Weights in {dtype}; master weights were fp32.
- {logits}
- {tokenizer}
- `sha256sum -c SHA256SUMS` checks the files.
- {start}
- `{eos}` spelled in a text is the end of a document, one id: `tokenizer(text + tokenizer.eos_token)`. Pass
  `split_special_tokens=True` for text of unknown origin: then it is text, as it was in training.
{padding}{config}"""


@dataclass(frozen=True)
class RunFacts:
    """What a checkpoint does not say of its run."""

    name: str
    sequence_length: int
    """Longest window of training: the context that the export promises."""
    config_yaml: str | None = None


def model_card(
    run: RunFacts,
    manifest: Manifest,
    model: ModelConfig,
    *,
    dtype: str,
    tokenizer: Tokenizer,
    starts: bool,
    same: SameTokenizer,
    verified: Verified | None,
) -> str:
    """Return README.md of the exported folder; `starts`: EOS was trained as the token before a document."""
    count, state = count_parameters(model), manifest.state
    facts = {
        "steps": f"{state.step:,}",
        "optimizer updates": f"{state.optimizer_step:,}",
        "tokens that counted in the loss": f"{state.consumed_tokens:,}",
        "samples": f"{state.consumed_samples:,}",
        "samples left out": f"{sum(last - first for first, last in state.skipped):,}",
        "last training loss (nats per token)": "unknown" if manifest.loss is None else f"{manifest.loss:.4f}",
        "sequence length": f"{run.sequence_length:,}",
        "data fingerprint": f"`{state.data_fingerprint}`",
        "tokenizer hash": f"`{manifest.tokenizer}`",
        "seed": str(state.seed),
        "layout of the checkpoint": ", ".join(f"{key} {value}" for key, value in manifest.layout.items()),
        "checkpoint of": manifest.created,
    }
    return _CARD.format(
        name=run.name,
        version=__version__,
        parameters=count.total,
        non_embedding=count.non_embedding,
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        dtype=dtype,
        logits=_logits(verified),
        tokenizer=f"The tokenizer encodes as the one of the training data does, checked on "
        f"{same.texts:,} texts ({same.tokens:,} tokens); each of its {same.special:,} special tokens, and "
        "each that is added to it, is one id.",
        start=_start(starts),
        eos=tokenizer.piece(tokenizer.eos_id),
        padding=_padding(model.vocab_size, tokenizer.vocab_size),
        config=_config(run.config_yaml),
    )


def _logits(verified: Verified | None) -> str:
    if verified is None:
        return "Logits were not compared with the checkpoint's."
    return (
        f"Logits were compared with the checkpoint's at {verified.positions:,} positions in fp32: largest "
        f"difference {verified.max_difference:.2g}, likeliest token alike at {verified.top1_agreement:.2%}."
    )


def _start(starts: bool) -> str:
    text = (
        "Training documents follow one another with EOS between them, so EOS is BOS too: put `bos_token` "
        "before a text that begins a document, as evaluation harnesses do."
        if starts
        else "Training documents end with EOS, and no token was trained to stand before them: no BOS is "
        "named."
    )
    return f"{text} Nothing is put before a prompt unasked."


def _padding(rows: int, tokenizer_size: int) -> str:
    extra = rows - tokenizer_size
    return f"- The last {extra:,} rows of the embedding stand for no token.\n" if extra else ""


def _config(text: str | None) -> str:
    return f"\n## Config of the run\n\n```yaml\n{text.rstrip()}\n```\n" if text else ""
