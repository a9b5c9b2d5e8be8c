"""Reading any boxes of logical tensors from any checkpoint, straight from its files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.manifest import Manifest, box_key, read_manifest
from megatrain.checkpoint.storage import DTYPES
from megatrain.durable import hash_file
from megatrain.errors import FailedWork


class Checkpoint:
    """A committed checkpoint, opened for reading; files are opened when they are first needed."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError for a newer format, FailedWork for an unsound manifest."""
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._open: dict[int, Any] = {}

    def damaged(self, share: int = 0, shares: int = 1, *, hashes: bool = True) -> list[str]:
        """Files of this rank's share whose size, or hash, is not the manifest's: "name: what"."""
        found = []
        for info in self.manifest.files[share::shares]:
            path = self.folder / info.name
            try:
                if path.stat().st_size != info.bytes:
                    found.append(f"{info.name}: {path.stat().st_size} bytes, not {info.bytes}")
                elif hashes and hash_file(path) != info.xxh3:
                    found.append(f"{info.name}: hash differs from the manifest's")
            except OSError as error:
                found.append(f"{info.name}: {error.strerror}")
        return found

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

        Raises FailedWork when the checkpoint has no such tensor.
        """
        stored = self.manifest.tensors.get(name)
        if stored is None:
            raise FailedWork(f"{self.folder}: has no tensor {name}")
        filled = 0
        for candidate in stored.boxes:
            common = box.intersect(candidate.box)
            if common is None:
                continue
            values = self._file(candidate.file).get_slice(box_key(name, candidate.box))
            if tuple(values.get_shape()) != candidate.box.shape or values.get_dtype() != stored.dtype:
                raise FailedWork(f"{self.folder}: {name} in its file is not what the manifest says")
            out[common.within(box)].copy_(values[common.within(candidate.box)])
            filled += common.numel
        if filled != box.numel:
            raise FailedWork(f"{self.folder}: {name} has no values for {box}")

    def require_shapes(self, wanted: Iterable[tuple[str, Sequence[int]]]) -> None:
        """Raises FailedWork naming the first tensor that is absent or of another shape."""
        for name, shape in wanted:
            stored = self.manifest.tensors.get(name)
            if stored is None or stored.shape != tuple(shape):
                is_ = "is absent" if stored is None else f"has shape {list(stored.shape)}"
                raise FailedWork(f"{self.folder}: {name} {is_}, wanted {list(shape)}")

    def _file(self, number: int) -> Any:
        if number not in self._open:
            path = self.folder / self.manifest.files[number].name
            try:
                self._open[number] = safe_open(path, framework="pt")
            except Exception as error:
                raise FailedWork(f"{path}: cannot be read: {error}") from None
        return self._open[number]


def committed(checkpoints: Path) -> list[Path]:
    """Folders that have a manifest, newest step first."""
    found = [path.parent for path in checkpoints.glob("step-*/MANIFEST.json")]
    return sorted((path for path in found if path.name[5:].isdigit()), key=lambda p: -int(p.name[5:]))
