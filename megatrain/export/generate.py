"""Text that goes on from prompts, from a run, a checkpoint or an export."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require
from megatrain.export.load import load_exported, load_model
from megatrain.export.source import Source, find_source
from megatrain.model import Transformer
from megatrain.model.generate import generate

logger = logging.getLogger(__name__)


def continuations(
    where: Path | Source,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    seed: int = 0,
    tokenizer_folder: Path | None = None,
    device: torch.device | str = "cpu",
    note: Callable[[str], object] = logger.warning,
) -> list[str]:
    """Return what the model writes after each prompt, without the prompt; each is drawn with the same seed.

    An empty prompt begins a document, by the start token. `note` is called with what a user should know.

    Raises UserError for a folder that holds no model, a tokenizer that does not belong to it, an empty prompt
    for a model without a start token; FailedWork for damaged weights.
    """
    source = where if isinstance(where, Source) else find_source(where, tokenizer_folder)
    tokenizer = Tokenizer.load(source.tokenizer_folder)
    prompt_ids = [tokenizer.encode(prompt) or _start(source) for prompt in prompts]
    trained = source.trained_length
    for ids in prompt_ids:
        if trained is not None and len(ids) > trained:
            note(f"the prompt has {len(ids):,} tokens, {beyond(trained)}")
    model = load_source(source).to(device)
    require(
        tokenizer.vocab_size <= model.config.vocab_size,
        f"{source.tokenizer_folder}: {tokenizer.vocab_size} ids, the model has {model.config.vocab_size}; "
        "the tokenizer is another one",
    )
    texts = []
    for ids in prompt_ids:
        new = generate(
            model,
            ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            eos_id=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
        )
        if trained is not None and len(ids) <= trained < len(ids) + len(new):
            note(f"prompt and text have {len(ids) + len(new):,} tokens, {beyond(trained)}")
        texts.append(_decode_after(tokenizer, ids, new))
    return texts


def beyond(trained: int) -> str:
    """Return the end of a note on text longer than the windows of training."""
    return f"the model was trained on windows of {trained:,}; expect nothing sensible beyond them"


def _start(source: Source) -> list[int]:
    start = source.start_id
    require(
        start is not None,
        "the prompt is empty, and this model has no start token (data.document_start: none): give at least "
        "one character to go on from",
    )
    assert start is not None
    return [start]


def load_source(source: Source) -> Transformer:
    """The native model, on the CPU in fp32."""
    return load_model(source.folder) if source.kind == "checkpoint" else load_exported(Path(source.folder))


def _decode_after(tokenizer: Tokenizer, ids: list[int], new: list[int]) -> str:
    """The text of `new` as it reads after `ids`: a leading space, or bytes that end a character, survive."""
    before, whole = tokenizer.decode(ids), tokenizer.decode(ids + new)
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(new)
