"""One split of a dataset, opened: how many windows each source has, and their tokens by pread."""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from megatrain.data.manifest import Manifest, ShardInfo, read_manifest
from megatrain.data.shard import token_dtype_of
from megatrain.data.tokenizer import Tokenizer, find_tokenizer, read_info
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError, require

_MAX_OPEN_FILES = 256


class TokenDataset:
    """The shards of one split. Safe for use by several threads; no file is opened before it is read.

    A window is `sequence_length + 1` tokens within one shard; windows follow at a stride of
    `sequence_length`, so that each token but a shard's first is a label once. The rest of a shard that
    fills no window is left out.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.fingerprint = manifest.fingerprint
        self.tokenizer_hash = manifest.tokenizer.hash
        self.vocab_size = manifest.tokenizer.vocab_size
        self.eos_id = manifest.tokenizer.eos_id
        self.sources = manifest.sources
        self._dtype = token_dtype_of(manifest.dtype)
        self._by_source = {s: [shard for shard in manifest.shards if shard.source == s] for s in self.sources}
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> "TokenDataset":
        """Open a split folder; the sizes of its shards are checked, and that its tokenizer is theirs.

        Raises UserError where it is no dataset, of a newer format, lacks a shard or has one cut short.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        require(
            manifest.shards, f"{folder}: the split has no shards; its share of the documents came out empty"
        )
        for shard in manifest.shards:
            _check_size(folder / shard.name, shard)
        home = find_tokenizer(folder)
        if home is not None and (found := read_info(home)).hash != manifest.tokenizer.hash:
            raise UserError(
                f"{home}: tokenizer {found.hash[:12]} does not belong to the shards of {folder}, made with "
                f"{manifest.tokenizer.hash[:12]}; put back their tokenizer or prepare the dataset again"
            )
        return cls(folder, manifest)

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer beside the shards. Raises UserError where there is none, or another one."""
        tokenizer = Tokenizer.load(self.folder)
        require(
            tokenizer.hash == self.tokenizer_hash, f"{self.folder}: the tokenizer beside it is another one"
        )
        return tokenizer

    def tokens(self, source: str) -> int:
        """The number of tokens of a source, EOS included."""
        return sum(shard.tokens for shard in self._shards(source))

    def windows(self, source: str, sequence_length: int) -> int:
        """The number of windows of a source."""
        return sum(_windows(shard, sequence_length) for shard in self._shards(source))

    def read(
        self, source: str, window_ids: npt.NDArray[np.int64], sequence_length: int, out: npt.NDArray[Any]
    ) -> None:
        """Copy windows of a source into `out` [n, sequence_length + 1], an integer array.

        Raises FailedWork naming the shard where it has become shorter than the manifest says.
        """
        shards = self._shards(source)
        ends = list(accumulate(_windows(shard, sequence_length) for shard in shards))
        size = self._dtype.itemsize
        num_bytes = (sequence_length + 1) * size
        for row, window in enumerate(window_ids.tolist()):
            index = bisect_right(ends, window)
            if not 0 <= window < ends[-1]:
                raise IndexError(f"window {window} of {ends[-1]} of source {source}")
            shard = shards[index]
            first = window - (ends[index - 1] if index else 0)
            offset = shard.values_offset + first * sequence_length * size
            # Held by name until the read is over: the list of open files may let go of it meanwhile.
            file = self._file(shard.name)
            content = os.pread(file.fileno(), num_bytes, offset)
            if len(content) != num_bytes:
                raise FailedWork(
                    f"{self.folder / shard.name}: shard cut short while in use; prepare it again"
                )
            out[row] = np.frombuffer(content, self._dtype)

    def verify(self) -> None:
        """Hash every shard. Raises FailedWork naming the first that is damaged."""
        self.verify_shards(range(len(self.manifest.shards)))

    def verify_shards(self, indices: Iterable[int]) -> None:
        """Hash these shards, by number, so that each rank can take a share. Raises FailedWork naming one."""
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

    def close(self) -> None:
        """Close the open files; a read after it opens them again."""
        with self._lock:
            self._files.clear()

    def _shards(self, source: str) -> list[ShardInfo]:
        require(
            source in self._by_source,
            f"{self.folder}: no source {source!r}; it has {', '.join(self.sources)}",
        )
        return self._by_source[source]

    def _file(self, name: str) -> BinaryIO:
        # The oldest is only let go of: a thread that still reads it holds it open.
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = (self.folder / name).open("rb", buffering=0)
                self._files[name] = file
                if len(self._files) > _MAX_OPEN_FILES:
                    self._files.popitem(last=False)
            self._files.move_to_end(name)
            return file


def _windows(shard: ShardInfo, sequence_length: int) -> int:
    return max(0, (shard.tokens - 1) // sequence_length)


def _check_size(path: Path, shard: ShardInfo) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: shard missing; prepare the dataset again or restore this file") from None
    require(
        found == shard.bytes,
        f"{path}: shard cut short or changed: {found:,} bytes, the manifest says {shard.bytes:,}; "
        "prepare the dataset again or restore this file",
    )
