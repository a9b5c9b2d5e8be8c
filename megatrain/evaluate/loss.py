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
from megatrain.data.documents import Documents
from megatrain.data.loader import sequential_batches
from megatrain.data.mixture import TokenMixture
from megatrain.model import LossSum
from megatrain.parallel.collectives import all_reduce
from megatrain.parallel.context import ParallelContext

ALL = "all"


@dataclass(frozen=True)
class Sums:
    """What was added up over the evaluated windows of a source."""

    nats: float = 0.0
    tokens: int = 0
    """Tokens that are labels and count; the first token of a window is none, and with `documents` "mask" that
    of a document."""
    bytes: int = 0
    """UTF-8 bytes that the counted tokens stand for."""
    windows: int = 0
    """Windows evaluated."""
    of_windows: int = 0
    """Windows that the split has."""


@dataclass(frozen=True)
class HeldOut:
    """Averages over the counted tokens, and the numbers of what they are averages over. An average over
    nothing is None."""

    loss: float | None
    perplexity: float | None
    bits_per_byte: float | None
    tokens: int
    bytes: int
    """UTF-8 bytes that the counted tokens stand for."""
    windows: int = 0
    """Windows evaluated."""
    of_windows: int = 0
    """Windows that the split has; more than `windows` where evaluate.windows caps them."""


def held_out(sums: Sums) -> HeldOut:
    """Return the averages of one source."""
    return _averages(sums, sums.nats, sums.tokens, sums.bytes)


def summary(by_source: Mapping[str, Sums]) -> dict[str, HeldOut]:
    """Return the averages of each source and of all together (key "all").

    Where only some windows of a source were evaluated, they stand for all of its windows: its sums are
    multiplied by of_windows / windows before they enter "all". So "all" estimates the same average, that over
    the whole split, whatever the number of windows; the counts are always those of what was evaluated.
    """
    known = [sums for sums in by_source.values() if sums.windows]
    scales = [sums.of_windows / sums.windows for sums in known]
    every = Sums(
        nats=sum(sums.nats for sums in known),
        tokens=sum(sums.tokens for sums in known),
        bytes=sum(sums.bytes for sums in known),
        windows=sum(sums.windows for sums in known),
        of_windows=sum(sums.of_windows for sums in known),
    )
    scaled = [
        sum(scale * one for scale, one in zip(scales, column, strict=True))
        for column in ([s.nats for s in known], [s.tokens for s in known], [s.bytes for s in known])
    ]
    results = {
        f"{source} (a source)" if source == ALL else source: held_out(sums)
        for source, sums in by_source.items()
    }
    return {**results, ALL: _averages(every, *scaled)}


def _averages(counts: Sums, nats: float, tokens: float, size: float) -> HeldOut:
    loss = nats / tokens if tokens else None
    return HeldOut(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)) if loss is not None else None,
        bits_per_byte=nats / math.log(2) / size if tokens and size else None,
        tokens=counts.tokens,
        bytes=counts.bytes,
        windows=counts.windows,
        of_windows=counts.of_windows,
    )


def evaluate_loss(
    forward: Callable[[Batch], LossSum],
    data: TokenMixture,
    byte_lengths: npt.NDArray[np.int32],
    context: ParallelContext,
    *,
    sequence_length: int,
    micro_batch: int,
    documents: Documents,
    windows: int | None,
) -> Mapping[str, HeldOut]:
    """Collective. Return the averages of every source of the data, and of all together (see `summary`);
    `windows` caps those of each source.

    A source too small for one window has no average and does not enter "all".
    """
    lengths = torch.from_numpy(byte_lengths.astype(np.int64))
    results: dict[str, Sums] = {}
    for source in data.sources:
        present = data.windows(source, sequence_length)
        if present == 0:
            results[source] = Sums()
            continue
        sums = torch.zeros(3, dtype=torch.float64)
        batches = sequential_batches(
            data,
            source,
            sequence_length=sequence_length,
            micro_batch=micro_batch,
            dp_rank=context.data.rank,
            dp_size=context.data.size,
            documents=documents,
            limit=windows,
        )
        for batch in batches:
            with torch.no_grad():
                total = forward(batch).total
            size = lengths[batch.labels[batch.loss_mask]].sum()
            sums += torch.tensor([float(total), float(batch.valid_tokens), float(size)], dtype=torch.float64)
        all_reduce(on_device := sums.to(context.device), context.data)
        sums = on_device.cpu()
        taken = present if windows is None else min(windows, present)
        results[source] = Sums(float(sums[0]), int(sums[1]), int(sums[2]), taken, present)
    return summary(results)


def as_records(results: Mapping[str, HeldOut]) -> dict[str, dict[str, float | None]]:
    """Return the results for metrics and manifests; None stands for an average over nothing."""
    return {source: asdict(result) for source, result in results.items()}
