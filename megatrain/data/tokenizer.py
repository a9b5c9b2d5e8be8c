"""The tokenizer as megatrain sees it: text to ids and back, the bytes that each id stands for, its folder."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import xxhash

from megatrain.data.manifest import TokenizerInfo, require_possible_ids
from megatrain.data.shard import Tokens, token_dtype
from megatrain.data.stored import VERSION, parse_stored, typed
from megatrain.data.tokenizer_hf import HuggingFaceModel
from megatrain.data.tokenizer_spm import SentencePieceModel
from megatrain.durable import write_durably
from megatrain.errors import FailedWork, UserError, require
from megatrain.records import read_file, write_sealed

Kind = Literal["sentencepiece", "hf"]
MODEL_FILE = "tokenizer.model"
MODEL_FILES: Mapping[Kind, str] = {"sentencepiece": MODEL_FILE, "hf": "tokenizer.json"}
# Not tokenizer.json: that is the name of another library's format, which an export puts beside the model.
INFO_FILE = "tokenizer-info.json"
FORMAT_VERSION = 2
"""Of that file."""
# What Hugging Face keeps beside a tokenizer.json; the first two name its special tokens.
HF_CONFIG = "tokenizer_config.json"
HF_COMPANIONS = (HF_CONFIG, "special_tokens_map.json", "chat_template.jinja")
# In an export whose tokenizer.json differs from the one of training: that one, whose hash shards name.
HF_ORIGINAL = "tokenizer-original.json"
FOLDER = "tokenizer"


class TokenizerModel(Protocol):
    """What a kind of tokenizer can do; the ids of its texts hold no control ids, and -1 stands for no id."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def bos_id(self) -> int: ...
    def encode(self, text: str) -> npt.NDArray[np.int32]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def piece(self, id_: int) -> str: ...
    def piece_id(self, piece: str) -> int | None: ...
    def contents(self) -> list[bytes]: ...
    def byte_ids(self) -> npt.NDArray[np.bool_]: ...
    def special_tokens(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class Encoded:
    """The tokens of documents one after the other, each ending with EOS, and how many each has."""

    tokens: Tokens
    lengths: npt.NDArray[np.int64]


class Tokenizer:
    """A tokenizer of either kind; `encode` and `decode` add and expect no control ids.

    A text that spells a control id's name (`</s>`, `<|im_start|>`) is text: whoever wants the id puts it
    there by `special_tokens`.
    """

    def __init__(self, model: bytes, info: TokenizerInfo) -> None:
        self._model = load_model(_kind(info.kind), model)
        self.info = info

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Load from a tokenizer's folder, or from the dataset or split folder that it lies in or beside.

        Raises UserError where there is none, it is of an unknown kind or its library is not installed,
        FailedWork where its files are damaged.
        """
        home = find_tokenizer(folder)
        require(home is not None, f"{folder}: no tokenizer there ({INFO_FILE}) nor in {FOLDER}/ beside it")
        assert home is not None
        info = read_info(home)
        path = model_path(home, _kind(info.kind))
        try:
            model = path.read_bytes()
        except OSError as error:
            raise FailedWork(f"{path}: cannot be read: {error.strerror}; restore this file") from None
        if model_hash(info.kind, model) != info.hash:
            raise FailedWork(f"{path}: damaged, its hash is not that in {INFO_FILE}")
        try:
            return cls(model, info)
        except ValueError as error:
            raise FailedWork(f"{path}: {error}") from None

    @property
    def vocab_size(self) -> int:
        return self.info.vocab_size

    @property
    def eos_id(self) -> int:
        return self.info.eos_id

    @property
    def bos_id(self) -> int:
        return self.info.bos_id

    @property
    def hash(self) -> str:
        return self.info.hash

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self._model.encode(text).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def encode_many(self, texts: Iterable[str]) -> Encoded:
        """The ids of all texts in the dtype of shards, EOS after each.

        Takes the memory of the texts' ids, twice, and no more for a long text than for many short ones.
        """
        dtype = token_dtype(self.vocab_size)
        end = np.array([self.eos_id], dtype)
        parts, lengths = [np.empty(0, dtype)], list[int]()
        for text in texts:
            ids = self._model.encode(text).astype(dtype)
            parts += [ids, end]
            lengths.append(len(ids) + 1)
        return Encoded(np.concatenate(parts), np.array(lengths, np.int64))

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The text of ids; control ids give nothing, bytes that are no UTF-8 give U+FFFD."""
        return self._model.decode([int(id_) for id_ in ids])

    def piece(self, id_: int) -> str:
        """The piece that an id names, as the tokenizer writes it."""
        return self._model.piece(id_)

    def special_tokens(self) -> dict[str, int]:
        """The ids that no text encodes to, by name: BOS and EOS, those of chats, reserved ones."""
        return self._model.special_tokens()

    def contents(self) -> list[bytes]:
        """The bytes of text that each id stands for [vocabulary]; none for control ids."""
        contents = self._model.contents()
        for id_ in {self.eos_id, self.bos_id} - {-1}:
            contents[id_] = b""
        return contents

    def byte_lengths(self) -> npt.NDArray[np.int32]:
        """How many bytes of UTF-8 each id stands for [vocabulary]; control ids 0, byte pieces 1."""
        return np.array([len(content) for content in self.contents()], np.int32)

    def byte_ids(self) -> npt.NDArray[np.bool_]:
        """Which ids stand for a part of a character [vocabulary]: byte pieces, halves of byte-level BPE."""
        return self._model.byte_ids()


def load_model(kind: Kind, content: bytes) -> TokenizerModel:
    """A model file, loaded. Raises ValueError where it is none of this kind."""
    match kind:
        case "sentencepiece":
            return SentencePieceModel(content)
        case "hf":
            return HuggingFaceModel(content)


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer's folder: this one, `tokenizer/` in it, or `tokenizer/` beside it."""
    for home in (folder, folder / FOLDER, folder.parent / FOLDER):
        if (home / INFO_FILE).is_file():
            return home
    return None


def model_path(home: Path, kind: Kind) -> Path:
    """Return the model file in a tokenizer's folder."""
    original = home / HF_ORIGINAL
    return original if kind == "hf" and original.is_file() else home / MODEL_FILES[kind]


def read_info(home: Path) -> TokenizerInfo:
    """What a tokenizer's folder says of it; the model itself is not read.

    Raises UserError for an unknown kind or a newer version, FailedWork where it is damaged.
    """
    path = home / INFO_FILE
    try:
        content = read_file(path)
        _, tree = parse_stored(content, path, newest=FORMAT_VERSION, mend="restore this file")
        info = typed(TokenizerInfo, tree)
        if info.kind in get_args(Kind):
            require_possible_ids(info)
    except OSError as error:
        raise FailedWork(f"{path}: cannot be read: {error.strerror}; restore this file") from None
    except ValueError as error:
        raise FailedWork(f"{path}: damaged ({error}); restore this file") from None
    if info.kind not in get_args(Kind):
        known = ", ".join(get_args(Kind))
        raise UserError(f"{path}: tokenizer kind {info.kind!r} is unknown; known: {known}; upgrade megatrain")
    return info


def describe(
    kind: Kind,
    model: bytes,
    *,
    eos_id: int | None = None,
    bos_id: int | None = None,
    vocab_multiple: int = 1,
) -> TokenizerInfo:
    """The description of a model file.

    eos_id, bos_id: None: what the model itself says; a BOS may be missing (-1).
    vocab_multiple: what `padded_vocab_size` is a multiple of.
    Raises ValueError where the file is no model, UserError where it has no EOS.
    """
    loaded = load_model(kind, model)
    eos_id = loaded.eos_id if eos_id is None else eos_id
    require(eos_id >= 0, f"the {kind} model has no end-of-sentence id; train it with one")
    return TokenizerInfo(
        kind=kind,
        hash=model_hash(kind, model),
        vocab_size=loaded.vocab_size,
        eos_id=eos_id,
        bos_id=loaded.bos_id if bos_id is None else bos_id,
        padded_vocab_size=-(-loaded.vocab_size // vocab_multiple) * vocab_multiple,
    )


def save_tokenizer(
    home: Path,
    model: bytes,
    info: TokenizerInfo | None = None,
    companions: Mapping[str, bytes] | None = None,
) -> TokenizerInfo:
    """Write a model, its companions (files by name) and its description into a folder; the description last.

    info: None: that of a sentencepiece model.
    """
    info = info or describe("sentencepiece", model)
    home.mkdir(parents=True, exist_ok=True)
    for name, content in {**(companions or {}), MODEL_FILES[_kind(info.kind)]: model}.items():
        write_durably(home / name, content)
    write_sealed(home / INFO_FILE, {VERSION: FORMAT_VERSION, **dataclasses.asdict(info)})
    return info


def model_hash(kind: str, model: bytes) -> str:
    """The hash by which shards name their tokenizer."""
    return xxhash.xxh3_128_hexdigest(kind.encode() + b"\0" + model)


def _kind(name: str) -> Kind:
    match name:
        case "sentencepiece" | "hf":
            return name
        case _:
            raise UserError(f"tokenizer kind {name!r} is unknown; known: {', '.join(get_args(Kind))}")
