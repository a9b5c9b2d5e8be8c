"""The tokenizer as megatrain sees it: text to ids and back, and the bytes that each id stands for."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megatrain.data.manifest import FORMAT_VERSION, TokenizerInfo, check_version
from megatrain.durable import write_durably
from megatrain.errors import FailedWork, UserError, require

MODEL_FILE = "tokenizer.model"
# Not tokenizer.json: that is the name of another library's format, which an export puts beside the model.
INFO_FILE = "tokenizer-info.json"
FOLDER = "tokenizer"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Tokenizer:
    """A sentencepiece tokenizer; `encode` and `decode` add and expect no control ids.

    A newline is a symbol of its own in the tokenizers that data_tools trains, so that no piece crosses a
    line and encoding by lines gives the same ids as encoding whole texts, in half the time.
    """

    def __init__(self, model: bytes, info: TokenizerInfo) -> None:
        import sentencepiece

        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._by_line = self.piece(self._processor.piece_to_id("\n")) == "\n"
        self.info = info

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Load from a tokenizer's folder, or from the dataset or split folder that it lies in or beside.

        Raises UserError where there is none or it is of an unknown kind, FailedWork where its files are
        damaged.
        """
        home = find_tokenizer(folder)
        require(home is not None, f"{folder}: no tokenizer there ({INFO_FILE}) nor in {FOLDER}/ beside it")
        assert home is not None
        info, model = read_info(home), (home / MODEL_FILE).read_bytes()
        if model_hash(info.kind, model) != info.hash:
            raise FailedWork(f"{home / MODEL_FILE}: damaged, its hash is not that in {INFO_FILE}")
        return cls(model, info)

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
        if not self._by_line:
            ids: list[int] = self._processor.encode(text)
            return ids
        lines: list[list[int]] = self._processor.encode(_LINE.findall(text), num_threads=1)
        return [id_ for line in lines for id_ in line]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The text of ids; control ids give nothing, bytes that are no UTF-8 give U+FFFD."""
        text: str = self._processor.decode([int(id_) for id_ in ids])
        return text

    def piece(self, id_: int) -> str:
        """The piece that an id names, as the tokenizer writes it."""
        piece: str = self._processor.id_to_piece(id_)
        return piece

    def byte_lengths(self) -> npt.NDArray[np.int32]:
        """How many bytes of UTF-8 each id stands for [vocabulary]; control ids 0, byte pieces 1."""
        processor = self._processor
        lengths = np.zeros(self.vocab_size, np.int32)
        for id_ in range(self.vocab_size):
            if processor.IsByte(id_):
                lengths[id_] = 1
            elif not (processor.IsControl(id_) or processor.IsUnknown(id_)):
                lengths[id_] = len(processor.id_to_piece(id_).replace("▁", " ").encode())
        return lengths


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer's folder: this one, `tokenizer/` in it, or `tokenizer/` beside it."""
    for home in (folder, folder / FOLDER, folder.parent / FOLDER):
        if (home / INFO_FILE).is_file():
            return home
    return None


def read_info(home: Path) -> TokenizerInfo:
    """What a tokenizer's folder says of it; the model itself is not read."""
    tree = json.loads((home / INFO_FILE).read_text(encoding="utf-8"))
    check_version(tree.pop("format_version", None), home / INFO_FILE)
    info = TokenizerInfo(**tree)
    if info.kind != "sentencepiece":
        raise UserError(f"{home / INFO_FILE}: tokenizer kind {info.kind!r} is unknown; known: sentencepiece")
    return info


def save_tokenizer(home: Path, model: bytes) -> TokenizerInfo:
    """Write a sentencepiece model and its description into a folder; the description last."""
    import sentencepiece

    processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
    require(
        processor.eos_id() >= 0,
        f"{home}: the sentencepiece model has no end-of-sentence id; train it with one",
    )
    kind = "sentencepiece"
    info = TokenizerInfo(
        kind=kind,
        hash=model_hash(kind, model),
        vocab_size=processor.vocab_size(),
        eos_id=processor.eos_id(),
        bos_id=processor.bos_id(),
    )
    home.mkdir(parents=True, exist_ok=True)
    write_durably(home / MODEL_FILE, model)
    tree = {"format_version": FORMAT_VERSION, **dataclasses.asdict(info)}
    write_durably(home / INFO_FILE, (json.dumps(tree, indent=1) + "\n").encode())
    return info


def model_hash(kind: str, model: bytes) -> str:
    """The hash by which shards name their tokenizer."""
    return xxhash.xxh3_128_hexdigest(kind.encode() + b"\0" + model)
