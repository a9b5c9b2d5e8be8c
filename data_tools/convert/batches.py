"""Tokenized records on their way into a dataset: checked, cut into documents, each ended by EOS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.datasets.shards import Ints
from megatrain.data.manifest import TokenizerInfo
from megatrain.data.shard import token_dtype
from megatrain.errors import FailedWork

BATCH_TOKENS = 1 << 20


@dataclass(frozen=True)
class Batch:
    """Records, or documents, one after the other: `lengths` [records] cuts `tokens`."""

    file: Path
    first: int
    """The number of the first record in the file, for messages."""
    lengths: Ints
    tokens: npt.NDArray[Any]
    """Of any integer type until they are checked."""
    doc_ids: Sequence[bytes] | None = None
    """Of 16 bytes each; None where the format keeps none."""
    sources: Sequence[str] | None = None
    """The source of each record; None where the input's name says it."""

    def take(self, rows: npt.NDArray[np.bool_]) -> Batch:
        """Some of its records, in their order."""
        if rows.all():
            return self
        chosen = np.flatnonzero(rows).tolist()
        return replace(
            self,
            lengths=self.lengths[rows],
            tokens=self.tokens[np.repeat(rows, self.lengths)],
            doc_ids=None if self.doc_ids is None else [self.doc_ids[row] for row in chosen],
            sources=None if self.sources is None else [self.sources[row] for row in chosen],
        )


def by_source(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """The records of each source that a batch names."""
    assert batch.sources is not None
    names = np.array(batch.sources, object)
    for name in dict.fromkeys(batch.sources):
        yield name, batch.take(names == name)


def checked(batch: Batch, tokenizer: TokenizerInfo) -> Batch:
    """The same with tokens as shards store them.

    Raises FailedWork naming the record where one is beyond the vocabulary.
    """
    wrong = (batch.tokens < 0) | (batch.tokens >= tokenizer.vocab_size)
    if wrong.any():
        at = int(np.argmax(wrong))
        record = batch.first + int(np.searchsorted(np.cumsum(batch.lengths), at, side="right"))
        raise FailedWork(
            f"{batch.file}: record {record:,}: token id {int(batch.tokens[at])} is not of this tokenizer, "
            f"whose ids are 0 to {tokenizer.vocab_size - 1:,}; give the tokenizer that made these tokens"
        )
    return replace(batch, tokens=batch.tokens.astype(token_dtype(tokenizer.vocab_size), copy=False))


def ended(batch: Batch, eos_id: int) -> Batch:
    """The same without empty records, and with EOS at the end of those that had none."""
    ends = np.cumsum(batch.lengths)
    last = np.full(len(ends), -1, np.int64)
    last[batch.lengths > 0] = batch.tokens[ends[batch.lengths > 0] - 1]
    full = batch.take((batch.lengths > 1) | ((batch.lengths == 1) & (last != eos_id)))
    ends = np.cumsum(full.lengths)
    open_ = full.tokens[ends - 1] != eos_id
    if not open_.any():
        return full
    return replace(
        full,
        lengths=full.lengths + open_,
        tokens=np.insert(full.tokens, ends[open_], eos_id),
    )


class Cutter:
    """Cuts a stream of records at each EOS, wherever the records end: for tokens packed into windows."""

    def __init__(self, eos_id: int, most: int) -> None:
        """Raises FailedWork, later, where `most` tokens follow each other without EOS."""
        self._eos_id, self._most = eos_id, most
        self._held: list[npt.NDArray[Any]] = []
        self._file, self._first = Path(), 0

    def cut(self, batch: Batch) -> Batch:
        """The documents that end within a batch; the rest waits for the next."""
        self._file, self._first = batch.file, batch.first
        ends = np.flatnonzero(batch.tokens == self._eos_id) + 1
        whole = int(ends[-1]) if len(ends) else 0
        before = sum(map(len, self._held))
        lengths = np.diff(ends, prepend=0)
        if len(ends):
            lengths[0] += before
        tokens = np.concatenate([*(self._held if len(ends) else ()), batch.tokens[:whole]])
        self._held = [*(() if len(ends) else self._held), batch.tokens[whole:]]
        if sum(map(len, self._held)) > self._most:
            raise FailedWork(
                f"{batch.file}: record {batch.first:,}: more than {self._most:,} tokens without EOS "
                f"({self._eos_id}); give the tokenizer that made these tokens, or --cut record"
            )
        return Batch(batch.file, batch.first, lengths, tokens)

    def rest(self) -> Batch:
        """What came after the last EOS: one document, or none."""
        tokens = np.concatenate(self._held) if self._held else np.empty(0, np.uint16)
        return Batch(
            self._file, self._first, np.array([len(tokens)] if len(tokens) else [], np.int64), tokens
        )
