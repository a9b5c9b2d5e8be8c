"""The manifest of a dataset: its fields, its JSON, its fingerprint."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from megatrain.durable import write_durably
from megatrain.errors import FailedWork, UserError, require

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


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

    @property
    def fingerprint(self) -> str:
        stream = [[shard.source, shard.tokens, shard.tokens_hash] for shard in self.shards]
        decides = [FORMAT_VERSION, self.split, self.dtype, self.tokenizer.hash, stream]
        return xxhash.xxh3_128_hexdigest(json.dumps(decides, separators=(",", ":")).encode())

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted({shard.source for shard in self.shards}))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder/manifest.json` durably. Its presence says that the split is complete: call it last."""
    tree = {
        "format_version": FORMAT_VERSION,
        "fingerprint": manifest.fingerprint,
        **dataclasses.asdict(manifest),
    }
    write_durably(folder / MANIFEST, (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json`.

    Raises UserError where there is none, or it was made by a newer version; FailedWork where it is damaged.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: {_why_no_dataset(folder)}; make it with `megatrain prepare`") from None
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: object) -> Manifest:
    """A manifest from the bytes of its file, which `path` names in errors.

    Raises what read_manifest raises.
    """
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise FailedWork(f"{path}: damaged, not JSON ({error}); prepare the dataset again") from None
    check_version(tree.get("format_version"), path)
    try:
        manifest = Manifest(
            split=tree["split"],
            dtype=tree["dtype"],
            tokenizer=TokenizerInfo(**tree["tokenizer"]),
            shards=tuple(ShardInfo(**shard) for shard in tree["shards"]),
            made=tree["made"],
        )
    except (KeyError, TypeError) as error:
        raise FailedWork(f"{path}: damaged, field {error}; prepare the dataset again") from None
    if manifest.fingerprint != tree["fingerprint"]:
        raise FailedWork(f"{path}: damaged, its fingerprint does not match; prepare the dataset again")
    return manifest


def check_version(version: object, where: object) -> None:
    """Raise UserError unless this version of the stored format can be read."""
    require(isinstance(version, int), f"{where}: names no format version; it is not a dataset of megatrain")
    assert isinstance(version, int)
    require(
        version <= FORMAT_VERSION,
        f"{where}: format version {version} is newer than this megatrain reads "
        f"({FORMAT_VERSION}); upgrade megatrain",
    )


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
