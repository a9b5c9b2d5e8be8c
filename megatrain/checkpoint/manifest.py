"""The manifest: a checkpoint exists when it does. Its JSON, and the checks that a foreign one has to pass.

From version 3 on, the last key is the hash of all bytes before it. A manifest that decides which samples come
next and which bytes are whose is compared with it before anything in it is believed, its version included.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import xxhash

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.place import Place
from megatrain.checkpoint.storage import DTYPES, FileInfo
from megatrain.errors import FailedWork, UserError
from megatrain.records import OWN_HASH, parse_record
from megatrain.state import RunState, is_checkpoint_name, step_of

FORMAT = "megatrain-checkpoint"
VERSION = 3  # 2: without its own hash; 1: also without precision and validation_loss
SEALED_FROM = 3
MANIFEST = "MANIFEST.json"
MAX_BYTES = 1 << 30
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
SEAL = re.compile(rb',"%b":"([0-9a-f]{32})"\}' % OWN_HASH.encode())
SEAL_BYTES = len(OWN_HASH) + 39
KEYS = {"format", "version", "created", "state", "model", "tokenizer", "layout", "loss", "files", "tensors"}
LATER_KEYS = {"precision", "validation_loss"}
STATE_VERSIONS = 2
"""The newest version of the state in a manifest without a hash of its own."""


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
    sealed: bool = True
    """It has a hash of its own, which was compared; not so in versions 1 and 2."""

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
    return sealed_text(f'{head[:-1]},"tensors":{tensors}'.encode())


def sealed_text(body: bytes) -> bytes:
    """Return the manifest whose JSON is this up to its last brace: with its own hash as the last key."""
    return b'%b,"%b":"%b"}' % (body, OWN_HASH.encode(), xxhash.xxh3_128_hexdigest(body).encode())


def write_manifest(place: Place, name: str, manifest: Manifest) -> None:
    """Commit: after this, the checkpoint exists."""
    text = manifest_text(manifest, tensors_json(manifest.tensors))
    place.write(f"{name}/{MANIFEST}", [memoryview(text)])


def read_manifest(place: Place, name: str) -> Manifest:
    """Raises FailedWork for whatever is not a complete, sound manifest of the folder's step, UserError for
    one that is sound and of a newer version."""
    return parse_manifest(_read(place, name), f"{place}/{name}/{MANIFEST}", name)


def read_validation_loss(place: Place, name: str) -> float | None:
    """Return the validation loss of a checkpoint; its tensors, most of the text, are hashed but not parsed.

    Raises as `read_manifest` does.
    """
    text, where = _read(place, name), f"{place}/{name}/{MANIFEST}"
    head, found, _ = text.rpartition(b',"tensors":{')
    with suppress(ValueError, LookupError, TypeError, ArithmeticError):  # said below
        if found and _is_sealed(text):
            tree = parse_record(head + b"}")
            if tree["version"] == VERSION and tree["state"]["step"] == step_of(name):
                return _number(tree["validation_loss"])
    return parse_manifest(text, where, name).validation_loss


def parse_manifest(text: bytes, where: str, name: str = "") -> Manifest:
    """Raises as `read_manifest` does. `where` is for the message; `name` is the checkpoint's folder, whose
    number is that of the step where it is named like one."""
    try:
        manifest = _parse(text, where)
        if is_checkpoint_name(name) and step_of(name) != manifest.state.step:
            raise ValueError(f"it is of step {manifest.state.step}, its folder is {name}")
        return manifest
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, FailedWork) as error:
        raise FailedWork(f"{where}: not a sound manifest: {error}") from None


def _read(place: Place, name: str) -> bytes:
    """Raises FailedWork."""
    try:
        return _text(place, f"{name}/{MANIFEST}")
    except OSError as error:
        what = error.strerror or error
        raise FailedWork(f"{place}/{name}/{MANIFEST}: not a sound manifest: {what}") from None


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
    sealed = _is_sealed(text)
    tree = parse_record(text)
    version = _version(tree, where, sealed=sealed)
    if version == 1:
        tree = {"precision": None, "validation_loss": None, **tree}
    if tree.keys() - {OWN_HASH} != KEYS | LATER_KEYS:
        raise ValueError(f"its keys are {sorted(tree)}")
    if any(type(tree[key]) is not dict for key in ("model", "layout", "tensors")):
        raise ValueError("model, layout and tensors are not objects")
    if any(type(tree[key]) is not str or not tree[key].isprintable() for key in ("tokenizer", "created")):
        raise ValueError("tokenizer and created are not texts")
    files = _files(tree["files"])
    tensors = {name: _tensor(name, entry, len(files)) for name, entry in tree["tensors"].items()}
    if not sealed:
        _check_kinds(tensors)
    return Manifest(
        state=_state(tree["state"], sealed=sealed),
        model=tree["model"],
        tokenizer=tree["tokenizer"],
        precision=tree["precision"] if tree["precision"] is None else _texts(tree["precision"]),
        layout={name: _whole([value])[0] for name, value in tree["layout"].items()},
        loss=_number(tree["loss"]),
        validation_loss=_number(tree["validation_loss"]),
        created=tree["created"],
        files=files,
        tensors=tensors,
        sealed=sealed,
    )


def _is_sealed(text: bytes) -> bool:
    """Whether it ends with its own hash. Raises ValueError where that is the hash of another text."""
    found = SEAL.fullmatch(text[-SEAL_BYTES:])
    if found is None:
        return False
    if xxhash.xxh3_128_hexdigest(memoryview(text)[:-SEAL_BYTES]) != found[1].decode():
        raise ValueError("its own hash differs: damaged, or changed by hand")
    return True


def _version(tree: Mapping[str, Any], where: str, *, sealed: bool) -> int:
    """Raises UserError for a newer version that is sound: each from 3 on ends with its hash in this way."""
    if tree["format"] != FORMAT:
        raise ValueError(f"format is {tree['format']!r}")
    version = tree["version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"version is {version!r}")
    if not sealed and (version >= SEALED_FROM or OWN_HASH in tree):
        raise ValueError("it does not end with its own hash")
    if version > VERSION:
        raise UserError(
            f"{where}: checkpoint version {version} is newer than this megatrain reads ({VERSION}); "
            "upgrade megatrain"
        )
    return version


def _state(tree: Any, *, sealed: bool) -> RunState:
    if not sealed and (type(tree) is not dict or tree.get("version") not in range(1, STATE_VERSIONS + 1)):
        raise ValueError("its state has no version that was written with it")
    return RunState.from_json(tree)


def _files(entries: Any) -> tuple[FileInfo, ...]:
    files = tuple(FileInfo(f["name"], _whole([f["bytes"]])[0], f["xxh3"]) for f in entries)
    for file in files:
        if not FILE_NAME.fullmatch(file.name) or file.bytes < 0 or type(file.xxh3) is not str:
            raise ValueError(f"file {file.name!r} of {file.bytes} bytes")
    if len({file.name for file in files}) != len(files):
        raise ValueError("a file is listed twice")
    return files


def _check_kinds(tensors: Mapping[str, StoredTensor]) -> None:
    """Without a hash, a changed name shows in that the weight and its moments have different names or
    boxes. Raises ValueError."""
    kinds: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        kind, _, logical = name.partition("/")
        kinds.setdefault(kind, {})[logical] = tensor
    first, *others = kinds.values() or [{}]
    if any(other != first for other in others):
        raise ValueError("weights and moments are not of the same tensors")


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
        raise ValueError(f"{str(value)[:40]} is not a number")
    return None if value is None else float(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
