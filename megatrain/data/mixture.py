"""The sources of a run, from one or several prepared folders, as one thing to read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import xxhash

from megatrain.config import DataConfig
from megatrain.data.dataset import TokenDataset
from megatrain.data.order import SampleOrder
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Member:
    """One source of the mixture: where it lies, and what it is called there."""

    dataset: TokenDataset
    source: str
    weight: float | None


class TokenMixture:
    """One split of all the sources that a config names; all speak one tokenizer's ids."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self.members = dict(members)
        first = next(iter(self.members.values())).dataset
        self.folder = first.folder
        self.sources = tuple(self.members)
        self.eos_id, self.vocab_size = first.eos_id, first.vocab_size
        self.tokenizer_hash = first.tokenizer_hash
        parts = [f"{name}={m.dataset.fingerprint}/{m.source}" for name, m in self.members.items()]
        self.fingerprint = xxhash.xxh3_128_hexdigest("\n".join(parts).encode())

    @staticmethod
    def open(config: DataConfig, split: Split) -> TokenMixture:
        """Raises UserError for an absent or damaged dataset, an unknown source, or two tokenizers."""
        require(
            config.sources,
            "data.sources is empty: name a folder made by `megatrain prepare`, e.g. "
            "data.sources='[{path: data/quickstart}]'",
        )
        members: dict[str, Member] = {}
        places: set[tuple[Path, str]] = set()
        opened = {source.path: TokenDataset.open(Path(source.path) / split) for source in config.sources}
        for source in config.sources:
            dataset = opened[source.path]
            require(
                source.name is None or source.name in dataset.sources,
                f"data.sources: {source.path} has no source {source.name!r}; "
                f"it has {', '.join(dataset.sources)}",
            )
            for name in [source.name] if source.name is not None else dataset.sources:
                place = (dataset.folder.resolve(), name)
                require(place not in places, f"data.sources: {source.path}: source {name!r} is named twice")
                places.add(place)
                key = name if name not in members else f"{source.path}:{name}"
                members[key] = Member(dataset, name, source.weight)
        hashes = {m.dataset.tokenizer_hash: m.dataset.folder for m in members.values()}
        require(
            len(hashes) == 1,
            "data.sources were made with different tokenizers: "
            + ", ".join(f"{folder} with {value[:12]}" for value, folder in hashes.items())
            + "; prepare them again with one tokenizer",
        )
        return TokenMixture(members)

    def order(self, sequence_length: int, seed: int) -> SampleOrder:
        """The order of samples. Raises UserError where a source is smaller than one sample."""
        weights = {name: m.weight for name, m in self.members.items() if m.weight is not None}
        sizes = {name: self.windows(name, sequence_length) for name in self.sources}
        return SampleOrder(sizes, weights or None, seed)

    def windows(self, source: str, sequence_length: int) -> int:
        member = self.members[source]
        return member.dataset.windows(member.source, sequence_length)

    def read(
        self, source: str, windows: npt.NDArray[np.int64], sequence_length: int, out: npt.NDArray[np.int64]
    ) -> None:
        """See TokenDataset.read."""
        member = self.members[source]
        member.dataset.read(member.source, windows, sequence_length, out)

    def verify_share(self, share: int, shares: int) -> None:
        """Re-hash every `shares`-th shard. Raises FailedWork naming a damaged one."""
        datasets = {id(m.dataset): m.dataset for m in self.members.values()}
        for dataset in datasets.values():
            dataset.verify_shards(range(share, len(dataset.manifest.shards), shares))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the shards."""
        return next(iter(self.members.values())).dataset.tokenizer()
