"""Export to a Hugging Face folder: planned first, streamed, verified, and put in place at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatrain import __version__
from megatrain.checkpoint.read import Checkpoint
from megatrain.config import ModelConfig
from megatrain.data.documents import documents_in, starts_documents
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork
from megatrain.export import extra
from megatrain.export.card import RunFacts, model_card
from megatrain.export.folder import FORMAT, MARKER, VERSION, new_folder, require_replaceable
from megatrain.export.hf_config import hf_config
from megatrain.export.identity import verify_tokenizer
from megatrain.export.load import checkpoint_model, require_belongs
from megatrain.export.names import logical_shapes
from megatrain.export.tokenizer import write_json, write_text, write_tokenizer
from megatrain.export.verify import LENGTH, Verified, verify_logits
from megatrain.export.weights import DTYPES, Dtype, plan_files, write_weights
from megatrain.records import sealed

MAX_PROMPTS = 4  # of the real texts, for the comparison of logits


@dataclass(frozen=True)
class ExportResult:
    folder: Path
    files: int
    """Of weights."""
    weight_bytes: int
    parameters: int
    tokenizer_texts: int
    """Texts on which the exported tokenizer was shown to encode alike."""
    verified: Verified | None
    """None when the logits were not compared."""


def export_hf(
    checkpoint_folder: Path | str,
    tokenizer_folder: Path,
    out: Path,
    *,
    run: RunFacts,
    dtype: Dtype = "bf16",
    shard_gib: float = 4.0,
    texts: Sequence[str] = (),
    verify: Literal["logits", "tokenizer"] = "logits",
) -> ExportResult:
    """Write a Llama that transformers, vLLM and others load, from a native checkpoint.

    texts: real text, on which the tokenizer and the logits are compared beside hard and random text.
    verify: "logits" compares those as well, for which each model has to fit in memory in fp32.
    `out` appears whole and verified or not at all; an earlier export there is replaced.

    Raises UserError for what is wrong in the call, FailedWork for a damaged checkpoint, values that are not
    finite, a failed verification or a failed write.
    """
    _ = extra.tokenizers(), extra.transformers()  # absent: known before any work
    checkpoint = Checkpoint(checkpoint_folder)
    model = checkpoint_model(checkpoint)
    tokenizer = Tokenizer.load(tokenizer_folder)
    require_belongs(tokenizer, tokenizer_folder, checkpoint)
    require_replaceable(out)
    if damaged := checkpoint.damaged():
        raise FailedWork(f"{checkpoint_folder}: damaged: {'; '.join(damaged[:3])}; export an older one")

    shapes = logical_shapes(model)
    starts = starts_documents(documents_in(checkpoint.manifest.state.data_fingerprint))
    files = plan_files(shapes, DTYPES[dtype], int(shard_gib * (1 << 30)))
    with _write_errors(out), new_folder(out) as folder:
        _write_settings(folder, checkpoint, model, tokenizer, run, dtype, starts)
        write_tokenizer(tokenizer_folder, folder, max_length=run.sequence_length, starts=starts)
        same = verify_tokenizer(folder, tokenizer, texts=texts)
        size = write_weights(checkpoint, shapes, files, DTYPES[dtype], folder)
        verified = None
        if verify == "logits":
            prompts = [tokenizer.encode(text)[:LENGTH] for text in texts[:MAX_PROMPTS]]
            verified = verify_logits(checkpoint_folder, folder, prompts=prompts)
        card = model_card(
            run,
            checkpoint.manifest,
            model,
            dtype=dtype,
            tokenizer=tokenizer,
            starts=starts,
            same=same,
            verified=verified,
        )
        write_text(folder / "README.md", card)
    parameters = sum(map(math.prod, shapes.values()))
    return ExportResult(out, len(files), size, parameters, same.texts, verified)


def _write_settings(
    folder: Path,
    checkpoint: Checkpoint,
    model: ModelConfig,
    tokenizer: Tokenizer,
    run: RunFacts,
    dtype: Dtype,
    starts: bool,
) -> None:
    eos = tokenizer.eos_id
    # An id that no document began with would be named as where to begin.
    bos = eos if starts else None
    tree = hf_config(model, sequence_length=run.sequence_length, dtype=dtype, bos_id=bos, eos_id=eos)
    write_json(folder / "config.json", tree)
    ends = {"bos_token_id": bos, "eos_token_id": eos}
    write_json(folder / "generation_config.json", {**ends, "do_sample": True, "temperature": 1.0})
    manifest = checkpoint.manifest
    origin = {
        "format": FORMAT,
        "version": VERSION,
        "megatrain": __version__,
        "run": run.name,
        "step": manifest.state.step,
        "checkpoint_created": manifest.created,
        "data_fingerprint": manifest.state.data_fingerprint,
        "tokenizer": manifest.tokenizer,
        "tokenizer_vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
    }
    write_json(folder / MARKER, sealed(origin))


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FailedWork(f"{out}: cannot be written: {error.strerror or error}") from None
