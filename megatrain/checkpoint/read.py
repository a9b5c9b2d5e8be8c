"""Reading any boxes of logical tensors from any checkpoint, straight from its files."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import xxhash

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.manifest import MANIFEST, Manifest, StoredBox, box_key, read_manifest
from megatrain.checkpoint.place import LocalPlace, OpenFile, Place, blocks, open_place
from megatrain.checkpoint.storage import DTYPES, Extent, FileInfo, raw_bytes, read_extents
from megatrain.errors import FailedWork
from megatrain.state import is_checkpoint_name, step_of

ROOM_BYTES = 1 << 26  # what is read beside its destination when a box must be cut
MAX_OPEN_FILES = 64
Boxes = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # of a file, by key


class Checkpoint:
    """A committed checkpoint, opened for reading; files are opened when they are first needed."""

    def __init__(self, folder: Path | str, place: Place | None = None, *, parted: bool = False) -> None:
        """`folder` is a path or URL, or the name of a folder in `place`; with `parted` files it lacks some.

        Raises UserError for a newer format, FailedWork for an unsound manifest.
        """
        at, self.name = place_and_name(folder)
        self.place = place or open_place(at)
        self.parted = parted
        self.manifest: Manifest = read_manifest(self.place, self.name)
        self._open: OrderedDict[int, tuple[OpenFile, Mapping[str, Extent]]] = OrderedDict()

    def __str__(self) -> str:
        return f"{self.place}/{self.name}"

    @property
    def at_hand(self) -> bool:
        """Every rank reads every file, and what another rank of its host has read is in memory."""
        return isinstance(self.place, LocalPlace) and not self.parted

    def damaged(self, share: int = 0, shares: int = 1, *, hashes: bool = True) -> list[str]:
        """Files of this rank's share whose size, or hash, is not the manifest's: "name: what".

        Of a manifest without a hash of its own, also those that hold other boxes than it says.
        """
        boxes = None if self.manifest.sealed else self._boxes()
        found = []
        for number, info in list(enumerate(self.manifest.files))[share::shares]:
            what = damage_of(self.place, self.name, info, hashes=hashes)
            if what is None and boxes is not None:
                what = self._other_boxes(info.name, boxes.get(number, {}))
            if what is not None:
                found.append(f"{info.name}: {what}")
        return found

    def _boxes(self) -> dict[int, Boxes]:
        """Return what the manifest says of each file, by its number."""
        found: dict[int, Boxes] = {}
        for name, tensor in self.manifest.tensors.items():
            for stored in tensor.boxes:
                entry = DTYPES[tensor.dtype], stored.box.shape
                found.setdefault(stored.file, {})[box_key(name, stored.box)] = entry
        return found

    def _other_boxes(self, name: str, wanted: Boxes) -> str | None:
        try:
            file = self.place.open(f"{self.name}/{name}")
            try:
                held = {key: (extent.dtype, extent.shape) for key, extent in read_extents(file).items()}
            finally:
                file.close()
        except (OSError, ValueError) as error:
            return f"cannot be read: {error}"
        return None if held == wanted else "holds other tensors than the manifest says"

    def names(self, kind: str) -> list[str]:
        """Logical names of one kind ("weights", "exp_avg", ...)."""
        prefix = f"{kind}/"
        return [name.removeprefix(prefix) for name in self.manifest.tensors if name.startswith(prefix)]

    def tensor(self, name: str) -> torch.Tensor:
        """A whole logical tensor, e.g. "weights/embedding.weight"."""
        stored = self.manifest.tensors[name]
        out = torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
        self.read(name, Box((0,) * len(stored.shape), stored.shape), out)
        return out

    def read(self, name: str, box: Box, out: torch.Tensor) -> None:
        """Copy one box of a logical tensor into `out`, which has the box' shape (any dtype, any device).

        Raises FailedWork when the checkpoint has no such tensor, or a file is not what the manifest says.
        """
        stored = self.manifest.tensors.get(name)
        if stored is None:
            raise FailedWork(f"{self}: has no tensor {name}")
        filled = 0
        for candidate in stored.boxes:
            common = box.intersect(candidate.box)
            if common is None:
                continue
            self._copy(name, DTYPES[stored.dtype], candidate, common, out[common.within(box)])
            filled += common.numel
        if filled != box.numel:
            raise FailedWork(f"{self}: {name} has no values for {box}")

    def require_shapes(self, wanted: Iterable[tuple[str, Sequence[int]]]) -> None:
        """Raises FailedWork naming the first tensor that is absent or of another shape."""
        for name, shape in wanted:
            stored = self.manifest.tensors.get(name)
            if stored is None or stored.shape != tuple(shape):
                is_ = "is absent" if stored is None else f"has shape {list(stored.shape)}"
                raise FailedWork(f"{self}: {name} {is_}, wanted {list(shape)}")

    def _copy(self, name: str, dtype: torch.dtype, stored: StoredBox, common: Box, out: torch.Tensor) -> None:
        """The common part of a stored box into `out`: whole rows of the stored box are read, straight into
        place where they are wanted as they are, else a bounded piece at a time beside it."""
        file, extents = self._file(stored.file)
        extent = extents.get(box_key(name, stored.box))
        if extent is None or extent.shape != stored.box.shape or extent.dtype != dtype:
            raise FailedWork(f"{self}: {name} in its file is not what the manifest says")
        row = math.prod(stored.box.shape[1:]) * dtype.itemsize
        first, *columns = common.within(stored.box)
        as_is = (
            common.shape[1:] == stored.box.shape[1:]
            and out.dtype == dtype
            and out.device.type == "cpu"
            and out.is_contiguous()
        )
        step = common.shape[0] if as_is else max(1, ROOM_BYTES // row)
        for low in range(0, common.shape[0], step):
            rows = out[low : low + step]
            room = rows if as_is else torch.empty((len(rows), *stored.box.shape[1:]), dtype=dtype)
            try:
                file.read_into(extent.start + (first.start + low) * row, raw_bytes(room))
            except OSError as error:
                raise FailedWork(f"{self}: {name}: {error}") from None
            if not as_is:
                rows.copy_(room[(slice(None), *columns)])

    def _file(self, number: int) -> tuple[OpenFile, Mapping[str, Extent]]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        name = self.manifest.files[number].name
        try:
            file = self.place.open(f"{self.name}/{name}")
            self._open[number] = file, read_extents(file)
        except (OSError, ValueError) as error:
            raise FailedWork(f"{self}/{name}: cannot be read: {error}") from None
        if len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1][0].close()
        return self._open[number]

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][0].close()


def place_and_name(folder: Path | str) -> tuple[str, str]:
    """Split a checkpoint's path or URL into that of its place and its folder's name there."""
    parent, _, name = str(folder).rstrip("/").rpartition("/")
    return parent or ("/" if str(folder).startswith("/") else "."), name


def has_manifest(folder: Path | str) -> bool:
    """Whether a path or URL is a committed checkpoint, sound or not. Raises OSError."""
    at, name = place_and_name(folder)
    return open_place(at).exists(f"{name}/{MANIFEST}")


def damage_of(place: Place, folder: str, info: FileInfo, *, hashes: bool) -> str | None:
    """How a file differs from what the manifest says: its size, its hash, or that it cannot be read."""
    try:
        file = place.open(f"{folder}/{info.name}")
        try:
            if file.size != info.bytes:
                return f"{file.size} bytes, not {info.bytes}"
            return "hash differs from the manifest's" if hashes and _hash(file) != info.xxh3 else None
        finally:
            file.close()
    except OSError as error:
        return error.strerror or str(error)


def committed(place: Place) -> list[str]:
    """Names of the folders that have a manifest, newest step first."""
    return list(newest_first(place))


def newest_first(place: Place) -> Iterator[str]:
    """Yield what `committed` lists; whether a folder has a manifest is asked when it is its turn, so that the
    newest one is found by one listing and one question, however many there are."""
    for name in checkpoint_folders(place):
        if place.exists(f"{name}/{MANIFEST}"):
            yield name


def newest_whole(place: Place) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint with a sound manifest and all files as it says, hashes compared, and what
    is wrong with newer ones: "name: what". Raises UserError for a newer format."""
    damaged: list[str] = []
    for name in newest_first(place):
        try:
            checkpoint = Checkpoint(name, place)
            faulty = "; ".join(checkpoint.damaged()[:3])
        except FailedWork as error:
            faulty = str(error)
        if not faulty:
            return checkpoint, damaged
        damaged.append(f"{name}: {faulty}")
    return None, damaged


def checkpoint_folders(place: Place) -> list[str]:
    """Names of the folders that are named like checkpoints, with a manifest or without, newest step first."""
    return sorted(filter(is_checkpoint_name, place.folders()), key=lambda name: (-step_of(name), name))


def _hash(file: OpenFile) -> str:
    digest = xxhash.xxh3_128()
    for piece in blocks(file):
        digest.update(piece)
    return digest.hexdigest()
