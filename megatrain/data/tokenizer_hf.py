"""A Hugging Face tokenizer.json: text to ids and back by the `tokenizers` library, never by code that comes
with a model."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from megatrain.data.text_blocks import text_blocks
from megatrain.errors import FailedWork, UserError, install

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class HuggingFaceModel:
    """A tokenizer.json, loaded.

    What the file says of truncation, padding and tokens to add around a text is not done, and a text that
    spells a special token is text. Raises ValueError for what is no such file or would encode at random,
    UserError where the library is not installed.
    """

    def __init__(self, content: bytes) -> None:
        self._tokenizer, tree = _load(content)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._pieces: dict[int, str] = {
            id_: piece for piece, id_ in self._tokenizer.get_vocab(with_added_tokens=True).items()
        }
        if not self._pieces:
            raise ValueError("it has no vocabulary")
        self._added: dict[int, Any] = self._tokenizer.get_added_tokens_decoder()
        self._unknown = _unknown(tree["model"])
        self._steps = set(_steps({key: tree.get(key) for key in ("pre_tokenizer", "decoder")}))
        self._byte_of = _byte_of_character() if "ByteLevel" in self._steps else {}

    @property
    def vocab_size(self) -> int:
        """One above the highest id; ids between may stand for nothing."""
        return max(self._pieces) + 1

    @property
    def eos_id(self) -> int:
        """-1, as `bos_id`: the file does not say which of its special tokens is which."""
        return -1

    @property
    def bos_id(self) -> int:
        return -1

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a text, special ids never among them.

        Raises UserError for halves of surrogate pairs, FailedWork for a character that the vocabulary has no
        id for, where it has none for the unknown either.
        """
        try:
            # One text a call: a batch would start threads in each of many processes.
            parts = [
                self._tokenizer.encode_batch_fast([block], add_special_tokens=False)[0].ids
                for block in text_blocks(text)
            ]
        except (TypeError, UnicodeEncodeError):
            raise UserError(
                f"cannot encode {text[:40]!r}: it holds half of a surrogate pair, or bytes that are not UTF-8"
            ) from None
        except Exception as error:
            raise FailedWork(f"tokenizer.json: cannot encode {text[:40]!r}: {error}") from None
        return np.concatenate([np.array(part, np.int32) for part in parts])

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def piece(self, id_: int) -> str:
        return self._pieces.get(id_, "")

    def piece_id(self, piece: str) -> int | None:
        id_: int | None = self._tokenizer.token_to_id(piece)
        return id_

    def contents(self) -> list[bytes]:
        """The bytes of text that each id stands for [vocabulary]; none for special ids and the unknown.

        Exact where pieces are of bytes (GPT-2 and after) or mark spaces as sentencepiece does; for other
        kinds the bytes of the piece as it is written.
        """
        return [self._content(id_) for id_ in range(self.vocab_size)]

    def byte_ids(self) -> npt.NDArray[np.bool_]:
        """Which ids are a part of a character [vocabulary]."""
        return np.array(
            [
                _BYTE_PIECE.fullmatch(self.piece(id_)) is not None or not _is_text(content)
                for id_, content in enumerate(self.contents())
            ],
            bool,
        )

    def special_tokens(self) -> dict[str, int]:
        """The ids that no text encodes to, by name."""
        return {token.content: id_ for id_, token in sorted(self._added.items()) if token.special}

    def _content(self, id_: int) -> bytes:
        piece = self.piece(id_)
        if id_ in self._added:
            return b"" if self._added[id_].special else piece.encode()
        if piece == self._unknown:
            return b""
        if self._byte_of:
            return bytes(self._byte_of[character] for character in piece if character in self._byte_of)
        if "ByteFallback" in self._steps and (found := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(found[1], 16)])
        if "WordPiece" in self._steps:
            return piece.removeprefix("##").encode()
        return piece.replace("▁", " ").encode()


def _load(content: bytes) -> tuple[Any, Mapping[str, Any]]:
    library = _library()
    try:
        text = content.decode()
        tree = json.loads(text)
        tokenizer = library.Tokenizer.from_str(text)
    except BaseException as error:
        # A panic of the library, on some broken files, is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"not a tokenizer.json: {' '.join(str(error).split())}") from None
    if tree["model"].get("dropout"):
        raise ValueError(f"model.dropout ({tree['model']['dropout']}) encodes at random; set it to null")
    return tokenizer, tree


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError:
        raise UserError(f"a tokenizer.json needs the package tokenizers: {install('data')}") from None
    module: ModuleType = tokenizers
    return module


def _unknown(model: Mapping[str, Any]) -> str | None:
    if model.get("unk_id") is not None:  # Unigram: a list of pieces with scores.
        return str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token")


def _steps(tree: object) -> Iterator[str]:
    """The names of all steps in a tree of pre-tokenizers and decoders."""
    if isinstance(tree, Mapping):
        if isinstance(tree.get("type"), str):
            yield tree["type"]
        for value in tree.values():
            yield from _steps(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _steps(value)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: GPT-2's table, read backwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
