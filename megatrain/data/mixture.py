"""The sources of a run, from one or several prepared folders, as one thing to read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import xxhash

from megatrain.config import DataConfig
from megatrain.data.cache import Cache
from megatrain.data.dataset import TokenDataset
from megatrain.data.files import most_open_files
from megatrain.data.remote_dataset import open_remote, tokenizer_home
from megatrain.data.rows import Ints
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require
from megatrain.remote import is_remote

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
        self.eos_id, self.vocab_size, self.dtype = first.eos_id, first.vocab_size, first.dtype
        self.tokenizer_hash = first.tokenizer_hash
        parts = [f"{name}={m.dataset.fingerprint}/{m.source}" for name, m in self.members.items()]
        self.fingerprint = xxhash.xxh3_128_hexdigest("\n".join(parts).encode())

    @staticmethod
    def open(config: DataConfig, split: Split, *, share: int = 0, shares: int = 1) -> TokenMixture:
        """Of the shards' sizes every `shares`-th is looked at, from `share` on; none with data.verify=none.

        Raises UserError for an absent or damaged dataset, an unknown source, or two tokenizers.
        """
        require(
            config.sources,
            "data.sources is empty: name a folder made by `megatrain prepare`, e.g. "
            "data.sources='[{path: data/quickstart}]'",
        )
        members: dict[str, Member] = {}
        places: set[tuple[Path, str]] = set()
        opened = _open_all(config, split, share, shares)
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
        hashes = {m.dataset.tokenizer_hash: m.dataset.files.folder for m in members.values()}
        require(
            len(hashes) == 1,
            "data.sources were made with different tokenizers: "
            + ", ".join(f"{folder} with {value[:12]}" for value, folder in hashes.items())
            + "; prepare them again with one tokenizer",
        )
        return TokenMixture(members)

    @property
    def datasets(self) -> list[TokenDataset]:
        """Each once."""
        return list({id(m.dataset): m.dataset for m in self.members.values()}.values())

    def without_window(self, sequence_length: int) -> list[str]:
        """Return a line for each source that is too small for one window: what it has."""
        lines = []
        for name, member in self.members.items():
            if not member.dataset.windows(member.source, sequence_length):
                tokens, shards = (
                    member.dataset.tokens(member.source),
                    len(member.dataset.shards(member.source)),
                )
                lines.append(f"{name} has {tokens:,} tokens" + (f" in {shards} shards" if shards > 1 else ""))
        return lines

    def verify_share(self, share: int, shares: int) -> None:
        """Re-hash every `shares`-th shard, from `share` on. Raises FailedWork naming a damaged one.

        Shards on object storage are hashed whenever they are fetched.
        """
        for dataset in self.datasets:
            if dataset.remote is None:
                dataset.verify_shards(range(share, len(dataset.manifest.shards), shares))

    def windows(self, source: str, sequence_length: int) -> int:
        """See TokenDataset.windows."""
        member = self.members[source]
        return member.dataset.windows(member.source, sequence_length)

    def read(self, source: str, windows: Ints, sequence_length: int, out: npt.NDArray[Any]) -> None:
        """See TokenDataset.read."""
        member = self.members[source]
        member.dataset.read(member.source, windows, sequence_length, out)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the shards."""
        return next(iter(self.members.values())).dataset.tokenizer()


def require_windows(data: TokenMixture, split: Split, sequence_length: int) -> None:
    """Raise UserError where no source of an evaluated split has a window: there would be no loss."""
    small = data.without_window(sequence_length)
    require(
        len(small) < len(data.sources),
        f"{data.folder}: no source of the {split} split has a window of data.sequence_length "
        f"({sequence_length}) + 1 tokens: {', '.join(small[:4])}{' ...' if small[4:] else ''}; prepare again "
        f"with a larger split.{split}, lower data.sequence_length"
        + (", or set evaluate.every=0" if split == "validation" else ""),
    )


def cache_of(config: DataConfig) -> Cache:
    """The cache that the config names. Raises UserError where it names none."""
    require(config.cache.folder is not None, "data.cache.folder: name a folder on each node's own disk")
    assert config.cache.folder is not None
    return Cache(Path(config.cache.folder), int(config.cache.gib * 2**30))


def tokenizer_folder_of(path: str, config: DataConfig) -> Path:
    """Where the tokenizer of a prepared dataset lies: beside it, or in the cache as a copy.

    Raises UserError, FailedWork where a URL cannot be read.
    """
    return tokenizer_home(path, cache_of(config)) if is_remote(path) else local_path(path)


def local_path(path: str) -> Path:
    """A path that may be written as a file:// URL."""
    return Path(path.removeprefix("file://"))


def _open_all(config: DataConfig, split: Split, share: int, shares: int) -> dict[str, TokenDataset]:
    """Each folder once, by its path."""
    paths = dict.fromkeys(source.path for source in config.sources)
    most_open = most_open_files(len(paths))

    def check(count: int) -> Iterable[int]:
        return range(share, count, shares) if config.verify != "none" else ()

    return {
        path: open_remote(
            path, split, cache_of(config), most_open=most_open, retry_s=config.retry_s, check=check
        )
        if is_remote(path)
        else TokenDataset.open(
            local_path(path) / split,
            most_open=most_open,
            retry_s=config.retry_s,
            check=check,
        )
        for path in paths
    }
