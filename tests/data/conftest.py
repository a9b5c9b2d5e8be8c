"""Small datasets made of known tokens."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash

from megatrain.data.manifest import Manifest, TokenizerInfo, write_manifest
from megatrain.data.shard import token_dtype, write_shard

EOS = 2
MakeDataset = Callable[..., Path]


def documents_of(rng: np.random.Generator, count: int, vocab_size: int) -> list[list[int]]:
    """Documents of random ids above EOS, each of 0 to 39 tokens."""
    return [rng.integers(3, vocab_size, rng.integers(0, 40)).tolist() for _ in range(count)]


def make_split(
    path: Path, shards: Sequence[tuple[str, Sequence[Sequence[int]]]], vocab_size: int = 1000
) -> Path:
    """A split folder of these shards (source, documents)."""
    path.mkdir(parents=True)
    tokenizer = TokenizerInfo("sentencepiece", "0" * 32, vocab_size, EOS, 1)
    infos = []
    for number, (source, documents) in enumerate(shards):
        ended = [[*document, EOS] for document in documents]
        infos.append(
            write_shard(
                path / f"shard-{number:05d}.arrow",
                source=source,
                doc_ids=[xxhash.xxh3_128_digest(repr(document).encode()) for document in ended],
                lengths=np.array([len(document) for document in ended], np.int64),
                tokens=np.array([id_ for document in ended for id_ in document], token_dtype(vocab_size)),
                tokenizer_hash=tokenizer.hash,
                text_bytes=0,
            )
        )
    write_manifest(path, Manifest("train", str(token_dtype(vocab_size)), tokenizer, tuple(infos)))
    return path


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    def make(
        shards: Sequence[tuple[str, Sequence[Sequence[int]]]] | Mapping[str, int],
        *,
        vocab_size: int = 1000,
        folder: str = "data/train",
    ) -> Path:
        """A split folder of these shards (source, documents), or of so many random documents a source."""
        if isinstance(shards, Mapping):
            rng = np.random.default_rng(0)
            shards = [(name, documents_of(rng, count, vocab_size)) for name, count in shards.items()]
        return make_split(tmp_path / folder, shards, vocab_size)

    return make
