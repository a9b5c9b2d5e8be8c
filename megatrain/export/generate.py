"""Text that goes on from prompts, from a run, a checkpoint or an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require
from megatrain.export.load import load_exported, load_model
from megatrain.export.source import Source, find_source
from megatrain.model import Transformer
from megatrain.model.generate import generate


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
) -> list[str]:
    """What the model writes after each prompt, without the prompt; each is drawn with the same seed.

    Raises UserError for a folder that holds no model, a tokenizer that does not belong to it, a prompt
    without tokens; FailedWork for damaged weights.
    """
    source = where if isinstance(where, Source) else find_source(where, tokenizer_folder)
    tokenizer = Tokenizer.load(source.tokenizer_folder)
    prompt_ids = [tokenizer.encode(prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        require(ids, f"the prompt {prompt!r} is empty: give at least one character to go on from")
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
        texts.append(_decode_after(tokenizer, ids, new))
    return texts


def load_source(source: Source) -> Transformer:
    """The native model, on the CPU in fp32."""
    return load_model(source.folder) if source.kind == "checkpoint" else load_exported(Path(source.folder))


def _decode_after(tokenizer: Tokenizer, ids: list[int], new: list[int]) -> str:
    """The text of `new` as it reads after `ids`: a leading space, or bytes that end a character, survive."""
    before, whole = tokenizer.decode(ids), tokenizer.decode(ids + new)
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(new)
