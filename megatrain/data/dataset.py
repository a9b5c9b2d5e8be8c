"""One split of a dataset, opened: how many windows each source has, and their tokens by pread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatrain.data.cache import CachedFolder
from megatrain.data.files import File, Files, LocalFolder, most_open_files
from megatrain.data.manifest import Manifest, ShardInfo, read_manifest
from megatrain.data.rows import Ints, Pieces, Reads, Rows, foreign_id
from megatrain.data.shard import Layout, layout_of, token_dtype, token_dtype_of
from megatrain.data.stored import SEALED_SINCE
from megatrain.data.tokenizer import Tokenizer, find_tokenizer, read_info
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError, require

RETRY_S = 60.0
LOOKED_AT = 1 << 20  # tokens at a time


class TokenDataset:
    """The shards of one split. Safe for use by several threads; no file is opened before it is read.

    A window is `sequence_length + 1` tokens within one shard; windows follow at a stride of
    `sequence_length`, so that each token but a shard's first is a label once. The rest of a shard that
    fills no window is left out.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        remote: CachedFolder | None = None,
        most_open: int | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        """`remote` brings the shards where they do not lie in the folder."""
        self.folder, self.manifest = folder, manifest
        self.fingerprint = manifest.fingerprint
        self.tokenizer_hash = manifest.tokenizer.hash
        self.vocab_size = manifest.tokenizer.vocab_size
        self.eos_id = manifest.tokenizer.eos_id
        self.sources = manifest.sources
        self.dtype = token_dtype_of(manifest.dtype)
        if (
            not 0 <= self.eos_id < self.vocab_size
            or self.dtype.itemsize < token_dtype(self.vocab_size).itemsize
        ):
            raise FailedWork(
                f"{folder}: manifest damaged: a tokenizer of {self.vocab_size:,} ids has no EOS "
                f"{self.eos_id}, or does not fit into {manifest.dtype}; prepare the dataset again"
            )
        self.remote = remote
        self.files = Files(
            remote or LocalFolder(folder), most_open=most_open or most_open_files(), retry_s=retry_s
        )
        self.shard_files = [File(self.files, shard.name, shard.values_offset) for shard in manifest.shards]
        self._offsets = np.array([shard.values_offset for shard in manifest.shards], np.int64)
        self._tokens = np.array([shard.tokens for shard in manifest.shards], np.int64)
        self._shards: dict[str, Ints] = _by_source(manifest)
        self._ends = lru_cache(None)(self._count_ends)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        most_open: int | None = None,
        retry_s: float = RETRY_S,
        check: Callable[[int], Iterable[int]] = range,
    ) -> TokenDataset:
        """Open a split folder; the sizes of its shards are checked (of which ones, `check` says, given how
        many there are), and that its tokenizer is theirs.

        Raises UserError where it is no dataset or of a newer format, FailedWork where it lacks a shard or
        something is damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        require(
            manifest.shards, f"{folder}: the split has no shards; its share of the documents came out empty"
        )
        for number in check(len(manifest.shards)):
            path = folder / manifest.shards[number].name
            _check_size(path, manifest.shards[number])
            require_layout(path, manifest, number)
        require_its_tokenizer(folder, manifest)
        return cls(folder, manifest, most_open=most_open, retry_s=retry_s)

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer beside the shards. Raises UserError where there is none, or another one."""
        tokenizer = Tokenizer.load(self.folder)
        require(
            tokenizer.hash == self.tokenizer_hash, f"{self.folder}: the tokenizer beside it is another one"
        )
        return tokenizer

    def tokens(self, source: str) -> int:
        """The number of tokens of a source, EOS included."""
        return int(self._tokens[self.shards(source)].sum())

    def tokens_of(self, shards: Ints) -> Ints:
        """The number of tokens of each of these shards."""
        return self._tokens[shards]

    def bytes_of(self, shards: Ints) -> Ints:
        """The size of each of these shards' files."""
        return np.array([self.manifest.shards[shard].bytes for shard in shards.tolist()], np.int64)

    def windows(self, source: str, sequence_length: int) -> int:
        """The number of windows of a source."""
        return int(self.ends(source, sequence_length)[-1])

    def ends(self, source: str, sequence_length: int) -> Ints:
        """How many windows of a source its shards hold up to each of them, that one included."""
        return self._ends(source, sequence_length)

    def locate(self, source: str, window_ids: Ints, sequence_length: int) -> Pieces:
        """Where windows [n] of a source lie; each is one piece, and the whole of row 0 .. n - 1."""
        ends = self.ends(source, sequence_length)
        if len(window_ids) and not 0 <= window_ids.min() <= window_ids.max() < ends[-1]:
            wrong = window_ids[(window_ids < 0) | (window_ids >= ends[-1])][0]
            raise IndexError(f"window {wrong} of {ends[-1]} of source {source}")
        index = np.searchsorted(ends, window_ids, side="right")
        before = np.where(index > 0, ends[index - 1], 0)
        rows = np.arange(len(window_ids), dtype=np.int64)
        return Pieces(
            row=rows,
            at=np.zeros_like(rows),
            shard=self.shards(source)[index],
            start=(window_ids - before) * sequence_length,
            length=np.full_like(rows, sequence_length + 1),
        )

    def reads(self, source: str, window_ids: Ints, sequence_length: int) -> Reads:
        """What must be read for windows [n] of a source into rows 0 .. n - 1."""
        return self.reads_of(self.locate(source, window_ids, sequence_length))

    def reads_of(self, pieces: Pieces) -> Reads:
        """Pieces as bytes of `shard_files`."""
        size = self.dtype.itemsize
        offset = self._offsets[pieces.shard] + pieces.start * size
        return Reads(pieces.row, pieces.shard, offset, pieces.at * size, (pieces.at + pieces.length) * size)

    def read(self, source: str, window_ids: Ints, sequence_length: int, out: npt.NDArray[Any]) -> None:
        """Copy windows of a source into `out` [n, sequence_length + 1], an integer array.

        Raises what Rows.fill raises.
        """
        rows = Rows(len(window_ids), sequence_length + 1, self.dtype, self.eos_id, self.vocab_size)
        rows.fill(self.reads(source, window_ids, sequence_length), self.shard_files)
        out[...] = rows.tokens

    def shards(self, source: str) -> Ints:
        """The numbers of a source's shards in the manifest. Raises UserError where it is unknown."""
        require(
            source in self._shards,
            f"{self.files.folder}: no source {source!r}; it has {', '.join(self.sources)}",
        )
        return self._shards[source]

    def shards_of(self, source: str, window_ids: Ints, sequence_length: int) -> Ints:
        """The number of the shard that each window [n] of a source lies in."""
        return self.locate(source, window_ids, sequence_length).shard

    def fetch(self, shard: int) -> bool:
        """Bring a shard near; gives whether it had to be fetched. Raises OSError, FailedWork."""
        return self.remote is not None and self.remote.fetch(self.shard_files[shard].name)

    def verify(self) -> None:
        """Hash every shard. Raises FailedWork naming the first that is damaged."""
        self.verify_shards(range(len(self.manifest.shards)))

    def verify_shards(self, indices: Iterable[int]) -> None:
        """Hash these shards, by number, so that each rank can take a share, and look at their ids.

        Raises FailedWork naming one that is damaged.
        """
        for index in indices:
            shard = self.manifest.shards[index]
            path = self.folder / shard.name
            try:
                found = hash_file(path)
            except OSError as error:
                raise FailedWork(f"{path}: cannot be read: {error.strerror}") from None
            if found != shard.hash:
                raise FailedWork(
                    f"{path}: shard damaged: its hash is {found[:12]}, the manifest says {shard.hash[:12]}; "
                    "prepare the dataset again or restore this file"
                )
            self._require_ids(path, shard)

    def _require_ids(self, path: Path, shard: ShardInfo) -> None:
        """Raise FailedWork where a token is none of the tokenizer's ids."""
        if not shard.tokens:
            return
        try:
            tokens = np.memmap(path, self.dtype, "r", shard.values_offset, (shard.tokens,))
        except ValueError as error:
            raise FailedWork(f"{path}: is not what the manifest says: {error}") from None
        for first in range(0, shard.tokens, LOOKED_AT):
            part = tokens[first : first + LOOKED_AT]
            if int(part.max()) >= self.vocab_size:
                at = int(np.argmax(part >= self.vocab_size))
                raise foreign_id(path, first + at, int(part[at]), self.vocab_size)

    def close(self) -> None:
        """Close the open files; a read after it opens them again."""
        self.files.close_all()

    def _count_ends(self, source: str, sequence_length: int) -> Ints:
        return np.cumsum(np.maximum(0, (self._tokens[self.shards(source)] - 1) // sequence_length))


def require_its_tokenizer(folder: Path, manifest: Manifest) -> None:
    """Raise UserError where the tokenizer next to the shards is not the one they were made with, FailedWork
    where the manifest contradicts it."""
    home = find_tokenizer(folder)
    if home is None or (found := read_info(home)) == (stated := manifest.tokenizer):
        return
    if found.hash == stated.hash:
        raise FailedWork(
            f"{folder}: manifest damaged: it names {stated.vocab_size:,} ids and EOS {stated.eos_id}, its "
            f"tokenizer {home} has {found.vocab_size:,} and EOS {found.eos_id} ({stated} and {found}); "
            "prepare the dataset again"
        )
    raise UserError(
        f"{home}: tokenizer {found.hash[:12]} does not belong to the shards of {folder}, made with "
        f"{stated.hash[:12]}; put back their tokenizer or prepare the dataset again"
    )


def require_layout(path: Path, manifest: Manifest, number: int) -> None:
    """Compare what a manifest without a hash of its own says of a shard with the shard's own footer.

    Raises FailedWork where they differ: another `values_offset` would give shifted tokens.
    """
    if manifest.version >= SEALED_SINCE:
        return
    shard, found = manifest.shards[number], layout_of(path)
    said = Layout(shard.values_offset, shard.documents, shard.tokens, manifest.dtype)
    differ = [
        f"{name} is {one}, the manifest says {other}"
        for name, one, other in zip(Layout._fields, found, said, strict=True)
        if one != other
    ]
    if differ:
        raise FailedWork(
            f"{path}: {'; '.join(differ)}: one of them is damaged; prepare the dataset again or restore it"
        )


def _by_source(manifest: Manifest) -> dict[str, Ints]:
    numbers: dict[str, list[int]] = {source: [] for source in manifest.sources}
    for number, shard in enumerate(manifest.shards):
        numbers[shard.source].append(number)
    return {source: np.array(found, np.int64) for source, found in numbers.items()}


def _check_size(path: Path, shard: ShardInfo) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise FailedWork(f"{path}: shard missing; prepare the dataset again or restore this file") from None
    except OSError as error:
        raise FailedWork(f"{path}: cannot be read: {error.strerror}; restore this file") from None
    require_size(path, found, shard)


def require_size(path: object, found: int, shard: ShardInfo) -> None:
    """Raise FailedWork where a shard is not as long as the manifest says."""
    if found != shard.bytes:
        raise FailedWork(
            f"{path}: shard cut short or changed: {found:,} bytes, the manifest says {shard.bytes:,}; "
            "prepare the dataset again or restore this file"
        )
