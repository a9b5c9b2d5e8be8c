"""Loss on held-out text, for each source: nats a token, perplexity, and bits a byte, which no tokenizer can
flatter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from megatrain.data.batch import Batch
from megatrain.data.loader import sequential_batches
from megatrain.data.mixture import TokenMixture
from megatrain.model import LossSum
from megatrain.parallel.collectives import all_reduce
from megatrain.parallel.context import ParallelContext

ALL = "all"


@dataclass(frozen=True)
class HeldOut:
    """Over the counted tokens: the first token of a document or window is not predicted, and does not
    count."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    """UTF-8 bytes that the counted tokens stand for."""


def held_out(nats: float, tokens: int, size: int) -> HeldOut:
    loss = nats / max(1, tokens)
    return HeldOut(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=nats / math.log(2) / max(1, size),
        tokens=tokens,
        bytes=size,
    )


def evaluate_loss(
    forward: Callable[[Batch], LossSum],
    data: TokenMixture,
    byte_lengths: npt.NDArray[np.int32],
    context: ParallelContext,
    *,
    sequence_length: int,
    micro_batch: int,
    document_mask: bool,
    windows: int | None,
) -> Mapping[str, HeldOut]:
    """Collective. Every source of the data, and all together; `windows` caps those of each source.

    A source too small for one window is left out.
    """
    lengths = torch.from_numpy(byte_lengths.astype(np.int64))
    results: dict[str, HeldOut] = {}
    overall = torch.zeros(3, dtype=torch.float64)
    for source in data.sources:
        if data.windows(source, sequence_length) == 0:
            continue
        sums = torch.zeros(3, dtype=torch.float64)
        batches = sequential_batches(
            data,
            source,
            sequence_length=sequence_length,
            micro_batch=micro_batch,
            dp_rank=context.data.rank,
            dp_size=context.data.size,
            document_mask=document_mask,
            limit=windows,
        )
        for batch in batches:
            with torch.no_grad():
                total = forward(batch).total
            size = lengths[batch.labels[batch.loss_mask]].sum()
            sums += torch.tensor([float(total), float(batch.valid_tokens), float(size)], dtype=torch.float64)
        all_reduce(on_device := sums.to(context.device), context.data)
        sums = on_device.cpu()
        results[source] = held_out(float(sums[0]), int(sums[1]), int(sums[2]))
        overall += sums
    results[ALL] = held_out(float(overall[0]), int(overall[1]), int(overall[2]))
    return results


def as_records(results: Mapping[str, HeldOut]) -> dict[str, dict[str, float]]:
    """For metrics and manifests."""
    return {source: asdict(result) for source, result in results.items()}
