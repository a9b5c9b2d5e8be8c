"""Records of an input made into documents as shards store them, each with an id; done by worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.convert.batches import Batch, checked, ended
from data_tools.datasets.shards import Ints
from megatrain.data.shard import Tokens
from megatrain.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class DocumentsTask:
    """Records of one source, and the tokenizer that made their tokens."""

    source: str
    batch: Batch
    tokenizer: Path


@dataclass(frozen=True)
class Documents:
    """Documents of one source, each ended by EOS, and how many records were empty."""

    source: str
    tokens: Tokens
    lengths: Ints
    doc_ids: Sequence[bytes]
    text_bytes: Ints
    empty: int
    """Records without a token but EOS, which are left out."""
    added_eos: int
    """Records that did not end with EOS."""


def make_documents(task: DocumentsTask) -> Documents:
    """Raises FailedWork naming file and record where a token is beyond the tokenizer's vocabulary."""
    tokenizer = _tokenizer(task.tokenizer)
    found = checked(task.batch, tokenizer.info)
    batch = ended(found, tokenizer.eos_id)
    only_eos = int((found.lengths > 0).sum()) - len(batch.lengths)  # left out like the empty ones
    starts = np.cumsum(batch.lengths) - batch.lengths
    sizes = _byte_lengths(task.tokenizer)[batch.tokens].astype(np.int64)
    return Documents(
        source=task.source,
        tokens=batch.tokens,
        lengths=batch.lengths,
        doc_ids=_identified(batch, tokenizer) if batch.doc_ids is None else batch.doc_ids,
        text_bytes=np.add.reduceat(sizes, starts) if len(starts) else starts,
        empty=len(found.lengths) - len(batch.lengths),
        added_eos=int(batch.lengths.sum() - found.lengths.sum()) + only_eos,
    )


def _identified(batch: Batch, tokenizer: Tokenizer) -> list[bytes]:
    """The hash of each document's text, as `megatrain prepare` gives it: a document keeps its id through any
    format, wherever its tokenizer gives back what it was given."""
    ends = np.cumsum(batch.lengths)
    texts = (tokenizer.decode(part[:-1]) for part in np.split(batch.tokens, ends[:-1]) if len(part))
    return [xxhash.xxh3_128_digest(text.encode("utf-8", "replace")) for text in texts]


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@lru_cache(maxsize=1)
def _byte_lengths(folder: Path) -> npt.NDArray[np.int32]:
    return _tokenizer(folder).byte_lengths()
