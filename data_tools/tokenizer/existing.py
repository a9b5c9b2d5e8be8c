"""An existing tokenizer taken over: a sentencepiece model, a tokenizer.json, or a folder of ours."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatrain.data.tokenizer import (
    FOLDER,
    HF_COMPANIONS,
    INFO_FILE,
    MODEL_FILES,
    Kind,
    Tokenizer,
    TokenizerModel,
    describe,
    load_model,
    model_hash,
    model_path,
    read_info,
)
from megatrain.errors import UserError, require


@dataclass(frozen=True)
class ExistingTokenizer:
    """Its model file as it was found, the files that belong to it, and which ids end and begin a document."""

    kind: Kind
    model: bytes
    eos_id: int
    bos_id: int
    companions: Mapping[str, bytes] = field(default_factory=dict)

    def tokenizer(self) -> Tokenizer:
        """Ready to encode, where it is not to be saved."""
        return Tokenizer(self.model, describe(self.kind, self.model, eos_id=self.eos_id, bos_id=self.bos_id))


def read_tokenizer(
    path: Path, *, eos_token: str | None = None, bos_token: str | None = None
) -> ExistingTokenizer:
    """Read a tokenizer.model, a tokenizer.json (of which files beside it may name EOS and BOS), or a folder.

    In a folder of ours (or a dataset's) its description decides; in others tokenizer.json goes before
    tokenizer.model.
    The tokens, where given, go before what the files say. Nothing is downloaded, no code of a model is run.
    Raises UserError where there is no tokenizer, it is broken or it has no EOS.
    """
    path = _file(path)
    model = _read(path)
    kind: Kind = "hf" if re.match(rb'\s*\{\s*["}]', model) else "sentencepiece"
    try:
        loaded = load_model(kind, model)
    except ValueError as error:
        raise UserError(f"tokenizer.model: {path}: {error}") from None
    companions = _companions(path) if kind == "hf" else {}
    info = read_info(path.parent) if (path.parent / INFO_FILE).is_file() else None
    if info is not None and info.hash == model_hash(kind, model):
        eos_id, bos_id = info.eos_id, info.bos_id
    else:
        eos_id, bos_id = _stated(path, loaded, companions)
    if eos_token is not None:
        eos_id = _id_of(loaded, eos_token, "tokenizer.eos_token", path)
    if bos_token is not None:
        bos_id = _id_of(loaded, bos_token, "tokenizer.bos_token", path)
    special = ", ".join(list(loaded.special_tokens())[:8]) or "none"
    require(
        eos_id >= 0,
        f"tokenizer.model: {path}: does not say which token ends a document; name it in tokenizer.eos_token "
        f"(its special tokens: {special})",
    )
    eos = loaded.piece(eos_id)
    require(
        eos_id not in loaded.encode(eos),
        f"tokenizer.model: {path}: {eos!r} cannot end documents, a text may hold it; name a special token in "
        f"tokenizer.eos_token ({special})",
    )
    return ExistingTokenizer(kind, model, eos_id, bos_id, companions)


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for home in (path, path / FOLDER):
        if (home / INFO_FILE).is_file():
            kind = read_info(home).kind
            return next(model_path(home, known) for known in MODEL_FILES if known == kind)
    found = [path / name for name in (MODEL_FILES["hf"], MODEL_FILES["sentencepiece"])]
    found = [file for file in found if file.is_file()]
    require(found, f"tokenizer.model: {path}: no folder with a {' or a '.join(MODEL_FILES.values())}")
    return found[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer.model: {path}: cannot be read: {error.strerror}") from None


def _companions(path: Path) -> dict[str, bytes]:
    return {name: _read(path.with_name(name)) for name in HF_COMPANIONS if path.with_name(name).is_file()}


def _stated(path: Path, loaded: TokenizerModel, companions: Mapping[str, bytes]) -> tuple[int, int]:
    """EOS and BOS as the model itself or its companions state them; -1 for none."""
    ids = {"eos_token": loaded.eos_id, "bos_token": loaded.bos_id}
    for file in HF_COMPANIONS[1::-1]:  # The configuration has the last word.
        tree = _tree(companions.get(file, b"{}"), path.with_name(file))
        for name in ids:
            token = tree.get(name)
            # The token, or a mapping that describes it.
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                ids[name] = _id_of(loaded, token, f"tokenizer.model: {file}: {name}", path)
    return ids["eos_token"], ids["bos_token"]


def _tree(content: bytes, path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise UserError(f"tokenizer.model: {path}: not JSON: {error}") from None
    require(isinstance(tree, dict), f"tokenizer.model: {path}: not a mapping")
    return dict(tree)


def _id_of(loaded: TokenizerModel, token: str, where: str, path: Path) -> int:
    id_ = loaded.piece_id(token)
    require(id_ is not None, f"{where} ({token!r}): {path} has no such token")
    assert id_ is not None
    return id_
