"""The manifest: a checkpoint exists when it does. Its JSON, and the checks that a foreign one has to pass."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.place import Place
from megatrain.checkpoint.storage import DTYPES, FileInfo
from megatrain.errors import FailedWork, UserError
from megatrain.state import RunState

FORMAT = "megatrain-checkpoint"
VERSION = 2  # 1: without precision and validation_loss
MANIFEST = "MANIFEST.json"
MAX_BYTES = 1 << 30
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
    precision: dict[str, str] | None
    """The config's section; None in version 1, which did not store it."""
    layout: dict[str, int]
    """The layout it was saved on; nothing depends on it."""
    loss: float | None
    """Of the last step before it."""
    validation_loss: float | None
    """Over all sources, if it was evaluated at this step."""
    created: str
    files: tuple[FileInfo, ...]
    tensors: dict[str, StoredTensor]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def box_key(tensor: str, box: Box) -> str:
    """A box' name within its safetensors file."""
    return f"{tensor}@{','.join(map(str, box.offset))}"


def tensors_json(tensors: Mapping[str, StoredTensor]) -> str:
    """The manifest's largest part; it stays the same from save to save of a run, so it is made once."""
    tree = {
        name: {
            "shape": tensor.shape,
            "dtype": tensor.dtype,
            "boxes": [[stored.box.offset, stored.box.shape, stored.file] for stored in tensor.boxes],
        }
        for name, tensor in sorted(tensors.items())
    }
    return json.dumps(tree, separators=(",", ":"))


def manifest_text(manifest: Manifest, tensors: str) -> bytes:
    """The JSON of a manifest whose tensors are written already."""
    tree = {
        "format": FORMAT,
        "version": VERSION,
        "created": manifest.created,
        "state": manifest.state.to_json(),
        "model": manifest.model,
        "tokenizer": manifest.tokenizer,
        "precision": manifest.precision,
        "layout": manifest.layout,
        "loss": _finite(manifest.loss),
        "validation_loss": _finite(manifest.validation_loss),
        "files": [{"name": f.name, "bytes": f.bytes, "xxh3": f.xxh3} for f in manifest.files],
    }
    head = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    return f'{head[:-1]},"tensors":{tensors}}}'.encode()


def write_manifest(place: Place, name: str, manifest: Manifest) -> None:
    """Commit: after this, the checkpoint exists."""
    text = manifest_text(manifest, tensors_json(manifest.tensors))
    place.write(f"{name}/{MANIFEST}", [memoryview(text)])


def read_manifest(place: Place, name: str) -> Manifest:
    """Raises UserError for a newer version, FailedWork for whatever is not a whole, sound manifest."""
    where = f"{place}/{name}/{MANIFEST}"
    try:
        text = _text(place, f"{name}/{MANIFEST}")
    except OSError as error:
        raise FailedWork(f"{where}: not a sound manifest: {error.strerror or error}") from None
    return parse_manifest(text, where)


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Raises as `read_manifest` does; `where` is for the message."""
    try:
        return _parse(text, where)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, FailedWork) as error:
        raise FailedWork(f"{where}: not a sound manifest: {error}") from None


def _text(place: Place, name: str) -> bytes:
    """Raises OSError."""
    file = place.open(name)
    try:
        if file.size > MAX_BYTES:
            raise OSError(f"{file.size} bytes, at most {MAX_BYTES} are read")
        text = bytearray(file.size)
        file.read_into(0, memoryview(text))
        return bytes(text)
    finally:
        file.close()


def _parse(text: bytes, where: str) -> Manifest:
    tree = json.loads(text, parse_constant=_no_constant)
    if tree["format"] != FORMAT:
        raise ValueError(f"format is {tree['format']!r}")
    version = tree["version"]
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{where}: checkpoint version {version} is newer than this megatrain reads ({VERSION}); "
            "upgrade megatrain"
        )
    if type(version) is not int or version < 1:
        raise ValueError(f"version is {version!r}")
    if version == 1:
        tree = {**tree, "precision": None, "validation_loss": None}
    files = tuple(FileInfo(f["name"], _whole([f["bytes"]])[0], f["xxh3"]) for f in tree["files"])
    for file in files:
        if not FILE_NAME.fullmatch(file.name) or file.bytes < 0 or type(file.xxh3) is not str:
            raise ValueError(f"file {file.name!r} of {file.bytes} bytes")
    if len({file.name for file in files}) != len(files):
        raise ValueError("a file is listed twice")
    return Manifest(
        state=RunState.from_json(tree["state"]),
        model=dict(tree["model"]),
        tokenizer=str(tree["tokenizer"]),
        precision=tree["precision"] if tree["precision"] is None else _texts(tree["precision"]),
        layout={str(name): _whole([value])[0] for name, value in tree["layout"].items()},
        loss=_number(tree["loss"]),
        validation_loss=_number(tree["validation_loss"]),
        created=str(tree["created"]),
        files=files,
        tensors={str(name): _tensor(name, entry, len(files)) for name, entry in tree["tensors"].items()},
    )


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


def _texts(tree: Any) -> dict[str, str]:
    if any(type(value) is not str for value in tree.values()):
        raise ValueError(f"{tree} are not texts")
    return dict(tree)


def _number(value: Any) -> float | None:
    if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
        raise ValueError(f"{value!r} is not a number")
    return None if value is None else float(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
