"""The second pass: documents encoded over processes and written as shards of one source each."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.collect import doc_ids
from data_tools.progress import Progress
from data_tools.selection import Documents
from data_tools.workers import Map
from megatrain.data.manifest import ShardInfo, TokenizerInfo
from megatrain.data.shard import Tokens, token_dtype, write_shard
from megatrain.data.tokenizer import Tokenizer

# Fixed, so that what a worker gets does not depend on how many there are.
_TASK_BYTES = 1 << 18


@dataclass(frozen=True)
class EncodeTask:
    """Documents of one source and split to encode: the file, offset and length of each text."""

    tokenizer: Path
    places: tuple[tuple[Path, int, int], ...]


@dataclass(frozen=True)
class Encoded:
    """Their tokens one after the other, each document ending with EOS, and how many each has."""

    tokens: Tokens
    lengths: npt.NDArray[np.int64]


def encode(task: EncodeTask) -> Encoded:
    """Encode the documents of a task; runs in a worker."""
    tokenizer = _tokenizer(task.tokenizer)
    ids, lengths = list[int](), list[int]()
    for place in task.places:
        document = tokenizer.encode(read_text(*place))
        ids += document
        ids.append(tokenizer.eos_id)
        lengths.append(len(document) + 1)
    return Encoded(np.array(ids, token_dtype(tokenizer.vocab_size)), np.array(lengths, np.int64))


def read_text(path: Path, offset: int, length: int) -> str:
    """One cleaned document."""
    with path.open("rb", buffering=0) as stream:
        return os.pread(stream.fileno(), length, offset).decode()


def write_source(
    folder: Path,
    documents: Documents,
    *,
    first_shard: int,
    max_tokens: int,
    tokenizer: tuple[Path, TokenizerInfo],
    over: Map,
    progress: Progress,
) -> list[ShardInfo]:
    """Encode documents of one source, in their order, into shards of at most `max_tokens`.

    A single document that is longer gets a shard of its own.
    """
    home, info = tokenizer
    source = documents.source_names[int(documents.source[0])]
    tasks = _tasks(home, documents)
    done = over(encode, tasks)
    done = progress.track(f"encode {folder.name}/{source}, parts", done, len(tasks))
    shards: list[ShardInfo] = []
    row = 0
    for part in _shard_sized(done, max_tokens):
        rows = slice(row, row + len(part.lengths))
        row = rows.stop
        shards.append(
            write_shard(
                folder / f"shard-{first_shard + len(shards):05d}.arrow",
                source=source,
                doc_ids=doc_ids(documents.keys[rows]),
                lengths=part.lengths,
                tokens=part.tokens,
                tokenizer_hash=info.hash,
                text_bytes=int(documents.length[rows].sum()),
            )
        )
    assert row == len(documents)
    return shards


def _tasks(home: Path, documents: Documents) -> Sequence[EncodeTask]:
    group = (np.cumsum(documents.length) - documents.length) // _TASK_BYTES
    starts = np.flatnonzero(np.diff(group, prepend=-1)).tolist() + [len(documents)]
    columns = zip(documents.text.tolist(), documents.offset.tolist(), documents.length.tolist(), strict=True)
    places = [(documents.texts[text], offset, length) for text, offset, length in columns]
    return [EncodeTask(home, tuple(places[start:end])) for start, end in pairwise(starts)]


def _shard_sized(parts: Iterator[Encoded], max_tokens: int) -> Iterator[Encoded]:
    """Regroup encoded parts into whole documents, as many as `max_tokens` lets together."""
    held, room = list[Encoded](), max_tokens
    for part in parts:
        tokens, lengths = part.tokens, part.lengths
        while len(lengths):
            fit = int(np.searchsorted(np.cumsum(lengths), room, side="right"))
            if fit == 0 and not held:
                fit = 1
            size = int(lengths[:fit].sum())
            if fit:
                held.append(Encoded(tokens[:size], lengths[:fit]))
            tokens, lengths, room = tokens[size:], lengths[fit:], room - size
            if len(lengths):
                yield _joined(held)
                held, room = [], max_tokens
    if held:
        yield _joined(held)


def _joined(parts: Sequence[Encoded]) -> Encoded:
    tokens: Tokens = np.concatenate([part.tokens for part in parts])
    return Encoded(tokens, np.concatenate([part.lengths for part in parts]))


@lru_cache(maxsize=1)
def _tokenizer(home: Path) -> Tokenizer:
    return Tokenizer.load(home)
