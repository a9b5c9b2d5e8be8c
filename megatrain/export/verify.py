"""The proof that an export computes what the checkpoint computes: logits of both, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatrain.errors import FailedWork
from megatrain.export import extra
from megatrain.export.load import load_model
from megatrain.model import Transformer

ROWS, LENGTH = 3, 128  # beyond a few dozen positions, because errors of RoPE do not show at the first ones


@dataclass(frozen=True)
class Verified:
    """How far the export's logits are from the model's."""

    max_difference: float
    """Largest absolute difference of a logit, both in fp32."""
    top1_agreement: float
    """Share of positions where both hold the same token for the likeliest."""
    positions: int


def verify_logits(
    checkpoint_folder: Path | str,
    export_folder: Path,
    *,
    prompts: Sequence[Sequence[int]] = (),
    tolerance: float = 1e-4,
) -> Verified:
    """Run the native model and transformers' Llama, both in fp32, over random ids and the given ones.

    The native weights are first rounded to the dtype of the export: what is compared is the conversion
    (names, RoPE, head layout, config), not the rounding, which is the user's choice. One model is in memory
    at a time. Raises FailedWork when a logit differs by more than the tolerance.
    """
    config = extra.transformers().AutoConfig.from_pretrained(str(export_folder), local_files_only=True)
    longest = min(LENGTH, config.max_position_embeddings)
    drawn = torch.randint(config.vocab_size, (ROWS, longest), generator=torch.Generator().manual_seed(0))
    rows = [*drawn.tolist(), *(list(ids[: config.max_position_embeddings]) for ids in prompts if ids)]
    model = load_model(checkpoint_folder, rounded=getattr(torch, str(config.dtype).removeprefix("torch.")))
    ours = _native_logits(model, rows)
    del model
    theirs = _hf_logits(export_folder, rows)
    # Of tensors, not of numbers: Python's max passes over what is not a number.
    difference = float(torch.stack([(a - b).abs().max() for a, b in zip(ours, theirs, strict=True)]).max())
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(ours, theirs, strict=True))
    positions = sum(map(len, rows))
    if not difference <= tolerance:  # nor when it is not a number
        raise FailedWork(
            f"{export_folder}: its logits differ from the checkpoint's by up to {difference:.3g} (allowed: "
            f"{tolerance:g}; likeliest token the same at {same} of {positions} positions); do not use it"
        )
    return Verified(difference, same / positions, positions)


@torch.inference_mode()
def _native_logits(model: Transformer, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    return [model.logits(torch.tensor([row]), torch.arange(len(row))[None])[0] for row in rows]


@torch.inference_mode()
def _hf_logits(folder: Path, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    transformers = extra.transformers()
    with _without_progress_bar(transformers):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report[problem])):
            raise FailedWork(f"{folder}: transformers reports {problem}: {', '.join(names[:5])}")
    return [model.eval()(torch.tensor([row])).logits[0] for row in rows]


@contextmanager
def _without_progress_bar(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
