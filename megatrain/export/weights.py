"""The weights of a checkpoint as Hugging Face safetensors files, one tensor in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from megatrain.checkpoint.fragments import WEIGHTS
from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.storage import Entry, write_safetensors
from megatrain.errors import FailedWork
from megatrain.export.names import to_hf
from megatrain.export.tokenizer import write_json

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class WeightFile:
    name: str
    tensors: tuple[str, ...]
    """Logical names, in the order of the file."""


def plan_files(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int
) -> list[WeightFile]:
    """Files of at most `shard_bytes` each, unless a tensor alone is larger; a single file has no number."""
    groups: list[list[str]] = [[]]
    room = shard_bytes
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if size > room and groups[-1]:
            groups.append([])
            room = shard_bytes
        groups[-1].append(name)
        room -= size
    if len(groups) == 1:
        return [WeightFile(SINGLE, tuple(groups[0]))]
    return [
        WeightFile(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def write_weights(
    checkpoint: Checkpoint,
    shapes: Mapping[str, tuple[int, ...]],
    files: Sequence[WeightFile],
    dtype: torch.dtype,
    folder: Path,
) -> int:
    """Write the files, and their index where there are several; gives the bytes of all tensors.

    Raises FailedWork naming a tensor with a value that is not finite, in the checkpoint or in `dtype`.
    """
    for file in files:
        entries = [Entry(to_hf(name), dtype, shapes[name]) for name in file.tensors]
        write_safetensors(
            folder / file.name, entries, _tensors(checkpoint, file.tensors, dtype), {"format": "pt"}
        )
    parameters = sum(math.prod(shape) for shape in shapes.values())
    size = parameters * dtype.itemsize
    if len(files) > 1:
        where = {to_hf(name): file.name for file in files for name in file.tensors}
        metadata = {"total_parameters": parameters, "total_size": size}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": dict(sorted(where.items()))})
    return size


def _tensors(checkpoint: Checkpoint, names: Sequence[str], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    for name in names:
        exact = checkpoint.tensor(f"{WEIGHTS}/{name}")
        if not _finite(exact):
            raise FailedWork(f"{checkpoint}: {name} has values that are not finite; try an older one")
        cast = exact.to(dtype)
        if not _finite(cast):
            raise FailedWork(f"{name}: has values too large for {dtype}; export with export.dtype=bf16")
        yield cast


def _finite(tensor: torch.Tensor) -> bool:
    low, high = tensor.aminmax()  # NaN where a value is; no mask of the tensor's size is made
    return bool(low.isfinite()) and bool(high.isfinite())
