"""The native model, whole on one process, from a checkpoint or from a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.fragments import WEIGHTS
from megatrain.checkpoint.read import Checkpoint
from megatrain.config import ModelConfig
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork, UserError, require
from megatrain.export.hf_config import model_config
from megatrain.export.names import logical_shapes, require_same_names, to_hf
from megatrain.export.weights import INDEX, SINGLE
from megatrain.model import Transformer, model_plan
from megatrain.parallel.context import Axis
from megatrain.parallel.plan import layout_of
from megatrain.records import parse_record, read_file

Read = Callable[[str, torch.Tensor], None]
"""Copies a logical tensor into memory of its shape."""


def load_model(
    checkpoint_folder: Path | str, *, dtype: torch.dtype = torch.float32, rounded: torch.dtype | None = None
) -> Transformer:
    """The model of a native checkpoint, on the CPU; `rounded`: its weights pass through that dtype.

    Raises FailedWork where the checkpoint is unsound or has other tensors than its model.
    """
    checkpoint = Checkpoint(checkpoint_folder)
    model = checkpoint_model(checkpoint)

    def read(name: str, out: torch.Tensor) -> None:
        whole = Box((0,) * out.ndim, tuple(out.shape))
        if rounded is None:
            checkpoint.read(f"{WEIGHTS}/{name}", whole, out)
        else:
            out.copy_(checkpoint.tensor(f"{WEIGHTS}/{name}").to(rounded))

    return _filled(model, read, dtype)


def checkpoint_model(checkpoint: Checkpoint) -> ModelConfig:
    """The config of a checkpoint's model; its tensors are those and no others, or FailedWork names one."""
    try:
        model = ModelConfig.model_validate(checkpoint.manifest.model)
    except ValueError as error:
        raise FailedWork(f"{checkpoint}: not a model of this megatrain: {error}") from None
    shapes = logical_shapes(model)
    require_same_names(checkpoint.names(WEIGHTS), shapes, str(checkpoint))
    checkpoint.require_shapes((f"{WEIGHTS}/{name}", shape) for name, shape in shapes.items())
    return model


def require_belongs(tokenizer: Tokenizer, folder: Path, checkpoint: Checkpoint) -> None:
    """Raises UserError unless the checkpoint was trained with this tokenizer, which lies in that folder."""
    wanted, rows = checkpoint.manifest.tokenizer, checkpoint.manifest.model.get("vocab_size", 0)
    require(
        tokenizer.hash == wanted,
        f"{folder}: tokenizer {tokenizer.hash[:12]} does not belong to {checkpoint}, trained with "
        f"{wanted[:12]}; name the folder of that one",
    )
    require(
        tokenizer.vocab_size <= rows,
        f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model only {rows} rows",
    )


def load_exported(folder: Path, *, dtype: torch.dtype = torch.float32) -> Transformer:
    """The model of an export, or of any Hugging Face Llama in safetensors that our model can be.

    Raises UserError where the folder is none, FailedWork where its files lack a tensor or cannot be read.
    """
    model = model_config(read_json(folder / "config.json"), folder / "config.json")
    shapes = logical_shapes(model)
    files = _files(folder)
    if model.tied_embeddings:
        files.pop("lm_head.weight", None)  # some write it all the same; transformers does not read it
    require_same_names(files, map(to_hf, shapes), folder)
    opened: dict[Path, Any] = {}

    def read(name: str, out: torch.Tensor) -> None:
        path = files[to_hf(name)]
        if path not in opened:
            opened[path] = _open(path)
        values = opened[path].get_tensor(to_hf(name))
        if values.shape != out.shape:
            raise FailedWork(f"{path}: {to_hf(name)} has shape {list(values.shape)}, not {list(out.shape)}")
        out.copy_(values)

    return _filled(model, read, dtype)


def _filled(config: ModelConfig, read: Read, dtype: torch.dtype) -> Transformer:
    """A model whose every logical tensor was read into its place."""
    with torch.device("meta"):
        model = Transformer(config)
    stored = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    for name, pieces in layout_of(stored, model_plan(config), Axis()).items():
        owner, _, leaf = name.rpartition(".")
        value = torch.empty(dict(stored)[name], dtype=dtype)
        for piece in pieces:
            read(piece.name, value.narrow(0, piece.first_row, piece.local[0]))
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    if config.tied_embeddings:
        model.head.weight = model.embedding.weight
    return model.eval()


def _files(folder: Path) -> dict[str, Path]:
    """Hugging Face tensor name → file, by the index or by the single file itself."""
    if (folder / INDEX).is_file():
        named = {str(tensor): str(name) for tensor, name in read_json(folder / INDEX)["weight_map"].items()}
        for name in named.values():
            require(Path(name).name == name, f"{folder / INDEX}: names the file {name!r} outside its folder")
        return {tensor: folder / name for tensor, name in named.items()}
    require((folder / SINGLE).is_file(), f"{folder}: holds neither {SINGLE} nor {INDEX}")
    return dict.fromkeys(_open(folder / SINGLE).keys(), folder / SINGLE)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise FailedWork(f"{path}: cannot be read: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return a file of a Hugging Face folder. Raises UserError where it cannot be read."""
    try:
        return parse_record(read_file(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
