"""Finished datasets of known texts, made without the pipeline: real shards, a real tokenizer."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece
import xxhash

import data_tools.corpus
from megatrain.data.manifest import Manifest, ShardInfo, read_manifest, write_manifest
from megatrain.data.shard import token_dtype, write_shard
from megatrain.data.tokenizer import Tokenizer, save_tokenizer

Splits = Mapping[str, Mapping[str, Sequence[str]]]


@cache
def corpus(name: str, count: int) -> tuple[str, ...]:
    """The beginnings of so many documents of the bundled corpus: "drama" is English, "verse" Chinese."""
    path = Path(data_tools.corpus.__file__).parent / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line)["text"][:400] for line, _ in zip(lines, range(count), strict=False))


@cache
def model() -> bytes:
    """A sentencepiece model like those that data_tools trains, small."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in corpus("drama", 40) for line in text.splitlines()]),
        model_writer=trained,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["\n"],
        num_threads=1,
        minloglevel=2,
    )
    return trained.getvalue()


def doc_id(text: str) -> bytes:
    """The id by which data_tools knows a text."""
    return xxhash.xxh3_128_digest(text.encode())


def make_dataset(
    folder: Path, splits: Splits, *, made: Mapping[str, Any] | None = None, documents_a_shard: int = 7
) -> Path:
    """A dataset of these texts, by split and source."""
    info = save_tokenizer(folder / "tokenizer", model())
    tokenizer = Tokenizer.load(folder)
    for split, sources in splits.items():
        shards: list[ShardInfo] = []
        (folder / split).mkdir()
        for source, texts in sorted(sources.items()):
            for start in range(0, len(texts), documents_a_shard):
                part = texts[start : start + documents_a_shard]
                documents = [[*tokenizer.encode(text), tokenizer.eos_id] for text in part]
                shards.append(write(folder / split, len(shards), source, part, documents, info.hash))
        dtype = str(token_dtype(info.vocab_size))
        write_manifest(folder / split, Manifest(split, dtype, info, tuple(shards), made or {}))
    return folder


def write(
    folder: Path,
    number: int,
    source: str,
    texts: Sequence[str],
    documents: Sequence[Sequence[int]],
    tokenizer_hash: str,
) -> ShardInfo:
    """One shard of documents that may be other than their texts' tokens."""
    return write_shard(
        folder / f"shard-{number:05d}.arrow",
        source=source,
        doc_ids=[doc_id(text) for text in texts],
        lengths=np.array([len(document) for document in documents], np.int64),
        tokens=np.array([id_ for document in documents for id_ in document], np.uint16),
        tokenizer_hash=tokenizer_hash,
        text_bytes=sum(len(text.encode()) for text in texts),
    )


def change_manifest(folder: Path, **changes: Any) -> None:
    """Write a split's manifest again, with other fields, and a fingerprint that belongs to them."""
    manifest = read_manifest(folder)
    fields = {"split": manifest.split, "dtype": manifest.dtype, "tokenizer": manifest.tokenizer}
    fields |= {"shards": manifest.shards, "made": manifest.made}
    write_manifest(folder, Manifest(**{**fields, **changes}))


def write_lineage(folder: Path, split: str, number: int, texts: Sequence[str], *, group: int = 3) -> None:
    """The lineage file of a shard whose documents are these texts."""
    path = folder / "lineage" / split / f"shard-{number:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "doc_id": pa.array([doc_id(text) for text in texts], pa.binary(16)),
        "file": [f"raw/{row % 2}.warc.gz" for row in range(len(texts))],
        "record": pa.array([10 * row for row in range(len(texts))], pa.int64()),
        "language": ["en" if text.isascii() else None for text in texts],
        "text_bytes": pa.array([len(text.encode()) for text in texts], pa.int64()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=group)
