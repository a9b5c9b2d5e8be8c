"""Loss on held-out text, against sums by hand, on one rank and on two."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatrain.config import Config
from megatrain.data.batch import Batch
from megatrain.data.mixture import TokenMixture
from megatrain.evaluate.loss import HeldOut, as_records, evaluate_loss, held_out
from megatrain.model import LossSum
from megatrain.parallel.context import ParallelContext
from tests.distributed.corpus import run_config
from tests.distributed.ranks import run_ranks
from tests.distributed.training import Act, act, play

LENGTH = 32


def nats_of(labels: torch.Tensor) -> torch.Tensor:
    """A stand-in for a model: the loss of a token is a function of its id."""
    return 0.5 + (labels % 7).double() / 8


def forward(batch: Batch) -> LossSum:
    total = (nats_of(batch.labels) * batch.loss_mask).sum()
    return LossSum(total, batch.loss_mask.sum())


def evaluate(config: Config, context: ParallelContext, micro_batch: int, windows: int | None) -> Any:
    data = TokenMixture.open(config.data, "validation")
    lengths = data.tokenizer().byte_lengths()
    return evaluate_loss(
        forward,
        data,
        lengths,
        context,
        sequence_length=LENGTH,
        micro_batch=micro_batch,
        document_mask=True,
        windows=windows,
    )


def by_hand(config: Config, source: str) -> tuple[float, int, int]:
    """Nats, tokens and bytes, one token after the other."""
    data = TokenMixture.open(config.data, "validation")
    lengths = data.tokenizer().byte_lengths()
    nats, tokens, size = 0.0, 0, 0
    for window in range(data.windows(source, LENGTH)):
        row = np.empty((1, LENGTH + 1), np.int64)
        data.read(source, np.array([window]), LENGTH, row)
        for before, label in zip(row[0, :-1], row[0, 1:], strict=True):
            if before != data.eos_id:
                nats += float(nats_of(torch.tensor(int(label))))
                tokens += 1
                size += int(lengths[label])
    return nats, tokens, size


def test_bits_per_byte_by_hand(corpus: Path, tmp_path: Path) -> None:
    config = run_config(corpus, tmp_path)
    found = evaluate(config, ParallelContext.single(), 3, None)
    assert list(found) == ["prose", "verse", "all"]
    sums = {source: by_hand(config, source) for source in ("prose", "verse")}
    sums["all"] = tuple(a + b for a, b in zip(sums["prose"], sums["verse"], strict=True))  # type: ignore[assignment]
    for source, (nats, tokens, size) in sums.items():
        result = found[source]
        assert (result.tokens, result.bytes) == (tokens, size) and size > tokens > 0
        assert math.isclose(result.loss, nats / tokens, rel_tol=1e-12)
        assert math.isclose(result.perplexity, math.exp(nats / tokens), rel_tol=1e-12)
        assert math.isclose(result.bits_per_byte, nats / size / math.log(2), rel_tol=1e-12)
    assert as_records(found)["all"]["tokens"] == sums["all"][1]


def test_ranks_and_micro_batches_do_not_matter(corpus: Path, tmp_path: Path) -> None:
    """Every window counts once; the stand-in's losses are eighths, so that their sums are exact."""
    config = run_config(corpus, tmp_path)
    one = evaluate(config, ParallelContext.single(), 1, None)
    acts: list[Act] = [act(evaluate, config, 4, None), act(evaluate, config, 1, 3)]
    for whole, capped in run_ranks(play, 2, acts):
        assert whole == one
        assert capped == evaluate(config, ParallelContext.single(), 2, 3)
        assert 0 < capped["prose"].tokens <= 3 * LENGTH < one["prose"].tokens


def test_figures() -> None:
    """Uniform over 256 bytes is 8 bits a byte; a loss beyond floats' exponents stays a number."""
    assert held_out(10 * math.log(256), 10, 10) == HeldOut(
        pytest.approx(math.log(256)), pytest.approx(256), pytest.approx(8), 10, 10
    )
    assert math.isfinite(held_out(1e9, 1, 1).perplexity)
    assert held_out(0.0, 0, 0).loss == 0.0


def test_a_source_without_a_window_is_left_out(corpus: Path, tmp_path: Path) -> None:
    config = run_config(corpus, tmp_path)
    data = TokenMixture.open(config.data, "test")
    length = 1 + max(data.windows(source, 1) for source in data.sources)
    found = evaluate_loss(
        forward,
        data,
        data.tokenizer().byte_lengths(),
        ParallelContext.single(),
        sequence_length=length,
        micro_batch=1,
        document_mask=True,
        windows=None,
    )
    assert list(found) == ["all"] and found["all"].tokens == 0
