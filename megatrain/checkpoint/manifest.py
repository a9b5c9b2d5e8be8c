"""The manifest: a checkpoint exists when it does. Its JSON, and the checks that a foreign one has to pass."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.storage import DTYPES, FileInfo
from megatrain.durable import replacing
from megatrain.errors import FailedWork, UserError
from megatrain.state import RunState

FORMAT = "megatrain-checkpoint"
VERSION = 1
MANIFEST = "MANIFEST.json"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")


@dataclass(frozen=True)
class StoredBox:
    """A box of a logical tensor, and the file (by its number in the manifest) that holds it."""

    box: Box
    file: int


@dataclass(frozen=True)
class StoredTensor:
    shape: tuple[int, ...]
    dtype: str
    boxes: tuple[StoredBox, ...]


@dataclass(frozen=True)
class Manifest:
    state: RunState
    model: dict[str, Any]
    """The model's config."""
    tokenizer: str
    """Hash of the tokenizer whose ids the model speaks."""
    layout: dict[str, int]
    """The layout it was saved on; nothing depends on it."""
    loss: float | None
    created: str
    files: tuple[FileInfo, ...]
    tensors: dict[str, StoredTensor]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def box_key(tensor: str, box: Box) -> str:
    """A box' name within its safetensors file."""
    return f"{tensor}@{','.join(map(str, box.offset))}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Commit: after this, the checkpoint exists."""
    tree = {
        "format": FORMAT,
        "version": VERSION,
        "created": manifest.created,
        "state": manifest.state.to_json(),
        "model": manifest.model,
        "tokenizer": manifest.tokenizer,
        "layout": manifest.layout,
        "loss": manifest.loss if manifest.loss is None or math.isfinite(manifest.loss) else None,
        "files": [{"name": f.name, "bytes": f.bytes, "xxh3": f.xxh3} for f in manifest.files],
        "tensors": {
            name: {
                "shape": tensor.shape,
                "dtype": tensor.dtype,
                "boxes": [[stored.box.offset, stored.box.shape, stored.file] for stored in tensor.boxes],
            }
            for name, tensor in sorted(manifest.tensors.items())
        },
    }
    with replacing(folder / MANIFEST) as file:
        file.write(json.dumps(tree, separators=(",", ":"), allow_nan=False).encode())


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError for a newer version, FailedWork for whatever is not a whole, sound manifest."""
    try:
        tree = json.loads((folder / MANIFEST).read_text(encoding="utf-8"), parse_constant=_no_constant)
        if tree["format"] != FORMAT:
            raise ValueError(f"format is {tree['format']!r}")
        if isinstance(tree["version"], int) and tree["version"] > VERSION:
            raise UserError(
                f"{folder}: checkpoint version {tree['version']} is newer than this megatrain reads "
                f"({VERSION}); upgrade megatrain"
            )
        if tree["version"] != VERSION:
            raise ValueError(f"version is {tree['version']!r}")
        files = tuple(FileInfo(f["name"], _whole([f["bytes"]])[0], f["xxh3"]) for f in tree["files"])
        for file in files:
            if not FILE_NAME.fullmatch(file.name) or file.bytes < 0:
                raise ValueError(f"file {file.name!r} of {file.bytes} bytes")
        if not isinstance(tree["loss"], float | int | None):
            raise ValueError(f"loss is {tree['loss']!r}")
        tensors = {str(name): _tensor(name, entry, len(files)) for name, entry in tree["tensors"].items()}
        return Manifest(
            state=RunState.from_json(tree["state"]),
            model=dict(tree["model"]),
            tokenizer=str(tree["tokenizer"]),
            layout=dict(tree["layout"]),
            loss=tree["loss"],
            created=str(tree["created"]),
            files=files,
            tensors=tensors,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, FailedWork) as error:
        raise FailedWork(f"{folder / MANIFEST}: not a sound manifest: {error}") from None


def covered_once(shape: tuple[int, ...], boxes: Iterable[Box]) -> bool:
    """Whether the boxes fill a tensor of this shape, none overlapping another."""
    boxes = sorted(boxes)
    if any(
        low < 0 or n < 1 or low + n > whole
        for box in boxes
        for low, n, whole in zip(box.offset, box.shape, shape, strict=True)
    ):
        return False
    if sum(box.numel for box in boxes) != math.prod(shape):
        return False
    return not any(a.intersect(b) for i, a in enumerate(boxes) for b in _later(boxes, i))


def _later(boxes: list[Box], index: int) -> Iterable[Box]:
    """The boxes after this one, in the order of their first rows, that begin before it ends."""
    end = boxes[index].offset[0] + boxes[index].shape[0]
    for box in boxes[index + 1 :]:
        if box.offset[0] >= end:
            return
        yield box


def _tensor(name: str, entry: dict[str, Any], files: int) -> StoredTensor:
    shape = _whole(entry["shape"])
    if entry["dtype"] not in DTYPES or not shape or any(n < 1 or n > 1 << 40 for n in shape):
        raise ValueError(f"tensor {name}: dtype {entry['dtype']!r}, shape {shape}")
    boxes = []
    for offset, sizes, file in entry["boxes"]:
        if file not in range(files) or len(offset) != len(shape) or len(sizes) != len(shape):
            raise ValueError(f"tensor {name}: box {offset} {sizes} in file {file}")
        boxes.append(StoredBox(Box(_whole(offset), _whole(sizes)), _whole([file])[0]))
    if not covered_once(shape, [stored.box for stored in boxes]):
        raise ValueError(f"tensor {name}: its boxes do not fill it, each part once")
    return StoredTensor(shape, entry["dtype"], tuple(boxes))


def _whole(values: list[Any]) -> tuple[int, ...]:
    if any(type(value) is not int for value in values):
        raise ValueError(f"{values} are not whole numbers")
    return tuple(values)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
