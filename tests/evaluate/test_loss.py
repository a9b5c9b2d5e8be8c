"""Loss on held-out text, against sums by hand, on one rank and on two."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from megatrain.config import Config
from megatrain.data.batch import Batch
from megatrain.data.documents import Documents
from megatrain.data.mixture import TokenMixture
from megatrain.evaluate.loss import Sums, as_records, evaluate_loss, held_out, summary
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


def evaluate(
    config: Config,
    context: ParallelContext,
    micro_batch: int,
    windows: int | None,
    documents: Documents = "start",
) -> Any:
    data = TokenMixture.open(config.data, "validation")
    lengths = data.tokenizer().byte_lengths()
    return evaluate_loss(
        forward,
        data,
        lengths,
        context,
        sequence_length=LENGTH,
        micro_batch=micro_batch,
        documents=documents,
        windows=windows,
    )


def by_hand(config: Config, source: str, documents: Documents) -> tuple[float, int, int]:
    """Nats, tokens and bytes, one token after the other."""
    data = TokenMixture.open(config.data, "validation")
    lengths = data.tokenizer().byte_lengths()
    nats, tokens, size = 0.0, 0, 0
    for window in range(data.windows(source, LENGTH)):
        row = np.empty((1, LENGTH + 1), np.int64)
        data.read(source, np.array([window]), LENGTH, row)
        for before, label in zip(row[0, :-1], row[0, 1:], strict=True):
            if documents != "mask" or before != data.eos_id:
                nats += float(nats_of(torch.tensor(int(label))))
                tokens += 1
                size += int(lengths[label])
    return nats, tokens, size


@pytest.mark.parametrize("documents", get_args(Documents))
def test_bits_per_byte_by_hand(corpus: Path, tmp_path: Path, documents: Documents) -> None:
    config = run_config(corpus, tmp_path)
    found = evaluate(config, ParallelContext.single(), 3, None, documents)
    assert list(found) == ["prose", "verse", "all"]
    sums = {source: by_hand(config, source, documents) for source in ("prose", "verse")}
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
    found = held_out(Sums(10 * math.log(256), 10, 10))
    assert (found.loss, found.perplexity, found.bits_per_byte) == (
        pytest.approx(math.log(256)),
        pytest.approx(256),
        pytest.approx(8),
    )
    assert math.isfinite(held_out(Sums(1e9, 1, 1)).perplexity or math.nan)


def test_an_average_over_nothing_is_no_number() -> None:
    """Neither the loss over no token nor the bits of no byte; "all" says over how many it is."""
    nothing = held_out(Sums(0.0, 0, 0, 3, 3))
    assert (nothing.loss, nothing.perplexity, nothing.bits_per_byte) == (None, None, None)
    no_bytes = held_out(Sums(2.0, 4, 0, 1, 1))
    assert no_bytes.loss == 0.5 and no_bytes.bits_per_byte is None
    found = summary({"a": Sums(6.0, 2, 8, 1, 1), "b": Sums()})
    assert found["b"].loss is None and found["b"].tokens == 0
    assert found["all"].loss == 3.0 and (found["all"].windows, found["all"].of_windows) == (1, 1)
    assert summary({"b": Sums()})["all"].loss is None and summary({})["all"].loss is None


def test_all_is_the_same_average_however_many_windows_are_taken(corpus: Path, tmp_path: Path) -> None:
    """A source that is two thirds of the split weighs two thirds, also where each gives as many windows."""
    few = summary({"big": Sums(20.0, 10, 30, 1, 73), "small": Sums(40.0, 10, 50, 1, 27)})
    assert few["all"].loss == pytest.approx(0.73 * 2 + 0.27 * 4, rel=1e-12)
    assert few["all"].bits_per_byte == pytest.approx((73 * 20 + 27 * 40) / (73 * 30 + 27 * 50) / math.log(2))
    assert (few["all"].tokens, few["all"].windows, few["all"].of_windows) == (20, 2, 100)
    config = run_config(corpus, tmp_path)
    whole = evaluate(config, ParallelContext.single(), 3, None)
    most = max(result.of_windows for result in whole.values())
    assert evaluate(config, ParallelContext.single(), 3, most) == whole
    capped = evaluate(config, ParallelContext.single(), 3, whole["verse"].windows)
    shares = {name: whole[name].of_windows / whole["all"].of_windows for name in ("prose", "verse")}
    assert shares["prose"] > 0.6 and capped["prose"].windows == capped["verse"].windows
    expected = sum(share * capped[name].loss for name, share in shares.items())
    assert capped["all"].loss == pytest.approx(expected, rel=1e-3), "but for the labels that are masked"


def test_a_source_without_a_window_has_no_average(corpus: Path, tmp_path: Path) -> None:
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
        documents="start",
        windows=None,
    )
    assert list(found) == ["prose", "verse", "all"]
    assert all(result.loss is None and result.tokens == result.windows == 0 for result in found.values())
