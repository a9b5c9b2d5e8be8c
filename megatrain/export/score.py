"""How good a saved or exported model is on held-out text, beside n-gram models of the same tokens."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from megatrain.config import Config
from megatrain.data.batch import Batch
from megatrain.data.documents import document_start, documents_of
from megatrain.data.loader import sequential_batches
from megatrain.data.mixture import Split, TokenMixture, require_windows
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork, require
from megatrain.evaluate.loss import ALL, HeldOut, Sums, as_records, evaluate_loss, summary
from megatrain.evaluate.ngram import NgramModel
from megatrain.export.generate import beyond, load_source
from megatrain.export.source import Source, find_source
from megatrain.model import LossSum
from megatrain.observe.scores import VERSION
from megatrain.parallel.context import ParallelContext
from megatrain.records import write_sealed
from megatrain.train.begun import with_start
from megatrain.train.ranks import keep_memory

logger = logging.getLogger(__name__)
MODEL = "model"
NGRAMS = {
    "unigram (discounted, with uniform)": 1,
    "bigram (interpolated modified Kneser-Ney)": 2,
    "5-gram (interpolated modified Kneser-Ney)": 5,
}
FORWARD_TOKENS = 2048  # taken through the model at a time
MAX_BASELINE_TOKENS = 100_000_000  # n-gram counts are kept in memory


@dataclass(frozen=True)
class Scores:
    """Who → source (and "all") → result, all on the same tokens of the same text."""

    source: Source
    split: Split
    results: Mapping[str, Mapping[str, HeldOut]]


def score(
    where: Path,
    split: Split,
    *,
    config: Config | None = None,
    windows: int | None = None,
    baselines: bool = False,
    note: Callable[[str], object] = logger.warning,
) -> Scores:
    """Evaluate a run, a checkpoint or an export on a split of the data that the run's config names.

    The first token of a window is predicted by nobody, and counts for nobody; so is that of a document where
    `data.document_start` is none. Where the config does not say, that is as the model was trained. n-gram
    models see their context across the model's windows, within a document. `note` is called with what a user
    should know.
    Raises UserError where there is no model or no data, FailedWork for damaged weights.
    """
    source = find_source(where)
    config = config or source.config
    require(config is not None, f"{where}: the run's config is not beside it; name it with --config")
    assert config is not None
    config = with_start(config, document_start(config.data, source.data_fingerprint))
    length, trained = config.data.sequence_length, source.trained_length
    if trained is not None and length > trained:
        note(f"data.sequence_length is {length:,}, {beyond(trained)}")
    data = TokenMixture.open(config.data, split)
    require_windows(data, split, config.data.sequence_length)
    if config.data.verify == "hash":
        data.verify_share(0, 1)
    tokenizer = Tokenizer.load(source.tokenizer_folder)
    require(
        tokenizer.hash == data.tokenizer_hash,
        f"{where}: the model's tokenizer is not the one that the shards of {data.folder} were made with",
    )
    keep_memory()
    model = load_source(source)
    model.documents = config.data.document_mask

    def forward(batch: Batch) -> LossSum:
        loss: LossSum = model(batch.tokens, batch.labels, batch.positions, batch.loss_mask)
        return loss

    with torch.no_grad():
        own = evaluate_loss(
            forward,
            data,
            tokenizer.byte_lengths(),
            ParallelContext.single(),
            sequence_length=config.data.sequence_length,
            micro_batch=max(1, FORWARD_TOKENS // config.data.sequence_length),
            documents=documents_of(config.data),
            windows=windows,
        )
    require(
        own[ALL].tokens > 0,
        f"{data.folder}: no token of the {split} split is a label that counts, so there is no loss; give the "
        "split more documents",
    )
    if not all(result.loss is None or math.isfinite(result.loss) for result in own.values()):
        raise FailedWork(
            f"{source.folder}: the loss of the {split} split is not a finite number: the weights are not, or "
            "overflow; take an older checkpoint"
        )
    results = {MODEL: own}
    if baselines:
        results |= _baselines(config, data, windows, tokenizer.byte_lengths())
    return Scores(source, split, results)


def write_scores(scores: Scores, path: Path) -> None:
    """Write who → source → numbers as a record with a hash of its own; an export's card repeats them."""
    tree = {
        "version": VERSION,
        "model": str(scores.source.folder),
        "split": scores.split,
        "results": {who: as_records(by_source) for who, by_source in scores.results.items()},
    }
    write_sealed(path, tree)


def _baselines(
    config: Config, data: TokenMixture, windows: int | None, byte_lengths: npt.NDArray[np.int32]
) -> dict[str, dict[str, HeldOut]]:
    train = TokenMixture.open(config.data, "train")
    if config.data.verify == "hash":
        train.verify_share(0, 1)
    length = config.data.sequence_length
    limit = max(1, MAX_BASELINE_TOKENS // length // len(train.sources))
    texts = [_stream(train, name, config, limit)[0] for name in train.sources if train.windows(name, length)]
    seen = np.concatenate([np.empty(0, np.int64), *texts])
    require(
        len(seen),
        f"--baselines: {train.folder}: no source has a window of data.sequence_length ({length}) + 1 tokens "
        "with a label that counts, so there is nothing to count n-grams in",
    )
    held = {name: _stream(data, name, config, windows) for name in data.sources if data.windows(name, length)}
    results: dict[str, dict[str, HeldOut]] = {}
    for name, order in NGRAMS.items():
        model = NgramModel.fit(seen, order=order, vocab_size=data.vocab_size, eos_id=data.eos_id)
        sums = dict.fromkeys(data.sources, Sums())
        for source, (tokens, counted) in held.items():
            nats = model.bits(tokens, counted) * float(np.log(2))
            size, present = int(byte_lengths[tokens[counted]].sum()), data.windows(source, length)
            taken = present if windows is None else min(windows, present)
            sums[source] = Sums(nats, int(counted.sum()), size, taken, present)
        results[name] = summary(sums)
    return results


def _stream(
    data: TokenMixture, source: str, config: Config, windows: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The tokens of the windows, in order, and which of them the model is scored on; EOS stands at every
    gap."""
    tokens: list[npt.NDArray[np.int64]] = []
    counted: list[npt.NDArray[np.bool_]] = []
    last = data.eos_id
    for batch in sequential_batches(
        data,
        source,
        sequence_length=config.data.sequence_length,
        micro_batch=256,
        dp_rank=0,
        dp_size=1,
        documents=documents_of(config.data),
        limit=windows,
    ):
        for row, labels, mask in zip(
            batch.tokens.numpy(), batch.labels.numpy(), batch.loss_mask.numpy(), strict=True
        ):
            if not mask.any():
                continue  # a padding row, or a window of nothing but ends
            if row[0] != last:  # the window before does not lead here
                gap = [data.eos_id, row[0]]
                tokens.append(np.array(gap))
                counted.append(np.array([False, False]))
            tokens.append(labels)
            counted.append(mask)
            last = labels[-1]
    if not tokens:
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    return np.concatenate(tokens), np.concatenate(counted)
