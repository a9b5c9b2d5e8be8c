"""Documents of one source and split on their way into shards: on the disk until a shard is full."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.datasets.shards import Ints
from megatrain.data.manifest import ShardInfo, TokenizerInfo
from megatrain.data.shard import Tokens, token_dtype, write_shard


class SourceWriter:
    """Writes documents, in order, into shards of at most `max_tokens`; a longer one stands alone.

    In memory are only the lengths and ids of one shard's documents.
    """

    def __init__(
        self, folder: Path, label: str, source: str, tokenizer: TokenizerInfo, max_tokens: int
    ) -> None:
        """Files in the folder begin with `label`, until `named` gives the shards their names."""
        self.source, self._folder, self._label = source, folder, label
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._spill = folder / f"{label}.tokens"
        self._infos: list[ShardInfo] = []
        self._lengths: list[Ints] = []
        self._doc_ids: list[bytes] = []
        self._tokens = self._text_bytes = 0
        self.documents = 0

    def add(
        self, tokens: Tokens, lengths: Ints, doc_ids: Sequence[bytes], text_bytes: Ints
    ) -> Sequence[ShardInfo]:
        """Documents: the run of their tokens, and of each its tokens, its id and the bytes of its text.

        Gives the shards that became full.
        """
        before = len(self._infos)
        self.documents += len(lengths)
        row = 0
        ends = np.concatenate([[0], np.cumsum(lengths)])
        while row < len(lengths):
            room = int(ends[row]) + self._max_tokens - self._tokens
            stop = int(np.searchsorted(ends, room, side="right")) - 1
            if stop <= row and not self._tokens:
                stop = row + 1
            if stop > row:
                self._append(tokens[ends[row] : ends[stop]], lengths[row:stop], doc_ids[row:stop])
                self._text_bytes += int(text_bytes[row:stop].sum())
                row = stop
            if row < len(lengths):
                self._flush()
        return self._infos[before:]

    def named(self, first: int) -> list[ShardInfo]:
        """Write what is left, and give all shards their names, which count from `first`."""
        if self._tokens:
            self._flush()
        named = []
        for number, info in enumerate(self._infos, first):
            name = f"shard-{number:05d}.arrow"
            os.rename(self._folder / info.name, self._folder / name)
            named.append(dataclasses.replace(info, name=name))
        return named

    def _append(self, tokens: Tokens, lengths: Ints, doc_ids: Sequence[bytes]) -> None:
        with self._spill.open("ab") as stream:
            tokens.tofile(stream)
        self._lengths.append(lengths)
        self._doc_ids += doc_ids
        self._tokens += len(tokens)

    def _flush(self) -> None:
        self._infos.append(
            write_shard(
                self._folder / f"{self._label}-{len(self._infos):05d}.arrow",
                source=self.source,
                doc_ids=self._doc_ids,
                lengths=np.concatenate(self._lengths),
                tokens=np.memmap(self._spill, self._dtype, "r"),
                tokenizer_hash=self._tokenizer.hash,
                text_bytes=self._text_bytes,
            )
        )
        self._spill.unlink()
        self._lengths, self._doc_ids = [], []
        self._tokens = self._text_bytes = 0
