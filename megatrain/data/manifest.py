"""The manifest of a dataset: its fields, its JSON, its fingerprint."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from megatrain.data.stored import VERSION, parse_stored, typed
from megatrain.errors import FailedWork, UserError
from megatrain.records import read_file, write_sealed

FORMAT_VERSION = 2
_STREAM = 1
"""The first value that the fingerprint is of. It stays 1 whatever the version of the manifest: with another
every run would find its dataset changed."""
MANIFEST = "manifest.json"
_MEND = "prepare the dataset again or restore this file"


@dataclass(frozen=True)
class TokenizerInfo:
    """What the reader of shards must know of the tokenizer that made them. `kind`: sentencepiece or hf."""

    kind: str
    hash: str
    vocab_size: int
    eos_id: int
    bos_id: int
    """-1: it has none."""
    padded_vocab_size: int | None = None
    """How many rows a model is to have, so that tensor parallelism divides them; None: not said."""


@dataclass(frozen=True)
class ShardInfo:
    """One shard file. `bytes` is the file's size, `values_offset` where its run of tokens begins in the file.

    `hash` is the xxh3-128 of the file; `tokens_hash` that of the tokens alone, which no version of Arrow
    changes.
    """

    name: str
    source: str
    documents: int
    tokens: int
    text_bytes: int
    bytes: int
    values_offset: int
    hash: str
    tokens_hash: str


@dataclass(frozen=True)
class Manifest:
    """All that is known of one split of a dataset.

    `made` says how (tool version, parameters of every step, counts kept and dropped); it does not enter the
    fingerprint, which is the hash of what decides the token stream and of nothing else.
    """

    split: str
    dtype: str
    tokenizer: TokenizerInfo
    shards: tuple[ShardInfo, ...]
    made: Mapping[str, Any] = field(default_factory=dict)
    version: int = field(default=FORMAT_VERSION, compare=False)
    """Of the file that it was read from; those of version 1 have no hash of their own."""

    @property
    def fingerprint(self) -> str:
        stream = [[shard.source, shard.tokens, shard.tokens_hash] for shard in self.shards]
        decides = [_STREAM, self.split, self.dtype, self.tokenizer.hash, stream]
        return xxhash.xxh3_128_hexdigest(json.dumps(decides, separators=(",", ":")).encode())

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted({shard.source for shard in self.shards}))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder/manifest.json` durably. Its presence says that the split is complete: call it last."""
    tree = {VERSION: FORMAT_VERSION, "fingerprint": manifest.fingerprint, **dataclasses.asdict(manifest)}
    del tree["version"]
    write_sealed(folder / MANIFEST, tree)


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json`.

    Raises UserError where there is none, or it was made by a newer version; FailedWork where it is damaged.
    """
    path = folder / MANIFEST
    try:
        content = read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: {_why_no_dataset(folder)}; make it with `megatrain prepare`") from None
    except OSError as error:
        raise FailedWork(f"{path}: cannot be read: {error.strerror}; {_MEND}") from None
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: object) -> Manifest:
    """A manifest from the bytes of its file, which `path` names in errors.

    Raises what read_manifest raises.
    """
    version, tree = parse_stored(content, path, newest=FORMAT_VERSION, mend=_MEND)
    try:
        said = tree.pop("fingerprint")
        tree["tokenizer"] = typed(TokenizerInfo, tree["tokenizer"])
        tree["shards"] = tuple(typed(ShardInfo, shard) for shard in tree["shards"])
        manifest = Manifest(**tree, version=version)
        _require_possible(manifest)
    except (LookupError, TypeError, ValueError) as error:
        raise FailedWork(f"{path}: damaged, field {error}; {_MEND}") from None
    if manifest.fingerprint != said:
        raise FailedWork(f"{path}: damaged, its fingerprint does not match; {_MEND}")
    return manifest


def require_possible_ids(tokenizer: TokenizerInfo) -> None:
    """Raise ValueError where the description of a tokenizer contradicts itself."""
    size, padded = tokenizer.vocab_size, tokenizer.padded_vocab_size
    if not (0 <= tokenizer.eos_id < size and -1 <= tokenizer.bos_id < size):
        raise ValueError(f"eos_id or bos_id ({tokenizer.eos_id}, {tokenizer.bos_id}) of {size} ids")
    if padded is not None and padded < size:
        raise ValueError(f"padded_vocab_size {padded} below vocab_size {size}")


def _require_possible(manifest: Manifest) -> None:
    """Raise ValueError where values contradict each other or lead out of the folder: of files of version 1
    that is all that can be seen without the shards."""
    if not (isinstance(manifest.split, str) and isinstance(manifest.made, dict)):
        raise ValueError("split or made of another type")
    sizes = {"uint16": 2, "uint32": 4}
    if manifest.dtype not in sizes:
        raise ValueError(f"dtype {manifest.dtype!r}")
    require_possible_ids(manifest.tokenizer)
    for shard in manifest.shards:
        require_file_name(shard.name)
        counts = (shard.documents, shard.tokens, shard.text_bytes, shard.bytes, shard.values_offset)
        end = shard.values_offset + shard.tokens * sizes[manifest.dtype]
        if min(counts) < 0 or end > shard.bytes or shard.documents > shard.tokens:
            raise ValueError(f"counts or places of {shard.name} that cannot be")
    if len({shard.name for shard in manifest.shards}) != len(manifest.shards):
        raise ValueError("name of a shard twice")


def require_file_name(name: str) -> None:
    """Raise ValueError unless a name is that of a file in a folder, and not a path."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"name {name!r}, which no file of this folder has")


def splits_in(folder: Path) -> Sequence[Path]:
    """The split folders that lie complete in a dataset's folder; the folder itself if it is one."""
    if (folder / MANIFEST).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))


def _why_no_dataset(folder: Path) -> str:
    if not folder.exists():
        return "no such dataset folder"
    if splits := splits_in(folder):
        return f"holds the splits {', '.join(path.name for path in splits)}; name one of them"
    return f"holds no {MANIFEST}: not a dataset, or one whose preparation did not end"
