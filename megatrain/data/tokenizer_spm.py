"""A sentencepiece model: text to ids and back, by words and from memory where that gives the same ids."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatrain.data.text_blocks import text_blocks
from megatrain.errors import UserError

SPACE = "▁"  # How sentencepiece writes a space.
# Of sentencepiece_model.proto: the types of a piece, and of a model.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
BPE = 2
_WORD = re.compile(r"[ ▁]*[^ ▁\n]+|[ ▁]+|\n+")
# Remembered words are forgotten together when they hold this many characters: some 50 MB.
_MEMORY_CHARACTERS = 1 << 24
_ENTRY_CHARACTERS = 64
# Text with fewer spaces (Chinese) is encoded whole: its stretches hardly come twice.
_CHARACTERS_A_SPACE = 12


class SentencePieceModel:
    """A model file, loaded.

    A merge of BPE joins neighbours into a piece of the vocabulary, so a cut between two characters that stand
    side by side in no piece changes nothing. Where no piece holds a space or a newline behind other
    characters, which is how sentencepiece trains unless told otherwise, texts are encoded word by word, each
    word once, in half the time. Raises ValueError for what is no model.
    """

    def __init__(self, content: bytes) -> None:
        import sentencepiece

        self.proto = parse_model(content)
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=content)
        self._encoder = self._processor
        self._by_word = _word_by_word(self.proto)
        self._prefix = ""
        if self._by_word and self.proto.normalizer_spec.add_dummy_prefix:
            # The space that the model puts before a text would come before each of its words.
            self._prefix, plain = " ", parse_model(content)
            plain.normalizer_spec.add_dummy_prefix = False
            self._encoder = sentencepiece.SentencePieceProcessor(model_proto=plain.SerializeToString())
        self._words: dict[str, bytes] = {}
        self._remembered = 0

    @property
    def vocab_size(self) -> int:
        return len(self.proto.pieces)

    @property
    def eos_id(self) -> int:
        """-1 where the model has none, like `bos_id`."""
        return int(self._processor.eos_id())

    @property
    def bos_id(self) -> int:
        return int(self._processor.bos_id())

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a text, control ids never among them. Raises UserError for halves of surrogate pairs."""
        try:
            parts = [self._block(block) for block in text_blocks(self._prefix + text if text else text)]
        except RuntimeError:
            raise UserError(
                f"cannot encode {text[:40]!r}: it holds half of a surrogate pair, or bytes that are not UTF-8"
            ) from None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._processor.decode(ids)
        return text

    def piece(self, id_: int) -> str:
        piece: str = self._processor.id_to_piece(id_)
        return piece

    def piece_id(self, piece: str) -> int | None:
        id_: int = self._processor.piece_to_id(piece)
        return id_ if self.piece(id_) == piece else None

    def contents(self) -> list[bytes]:
        """The bytes of text that each id stands for [vocabulary]; none for control ids and the unknown."""
        return [_content(piece) for piece in self.proto.pieces]

    def byte_ids(self) -> npt.NDArray[np.bool_]:
        """Which ids are one byte of a character that has no piece [vocabulary]."""
        return np.array([piece.type == BYTE for piece in self.proto.pieces], bool)

    def special_tokens(self) -> dict[str, int]:
        """The ids that no text encodes to, by name."""
        return {piece.piece: id_ for id_, piece in enumerate(self.proto.pieces) if piece.type == CONTROL}

    def _block(self, text: str) -> npt.NDArray[np.int32]:
        if not self._by_word or text.count(" ") * _CHARACTERS_A_SPACE < len(text):
            ids: npt.NDArray[np.int32] = self._encoder.encode(text, return_type="numpy")
            return ids
        known, words = self._words, _WORD.findall(text)
        if new := set(words).difference(known):
            self._learn(known, new)
        return np.frombuffer(b"".join(map(known.__getitem__, words)), np.int32)

    def _learn(self, known: dict[str, bytes], new: set[str]) -> None:
        """Put the ids of new words into the memory `known`; another one begins when it is full."""
        for word in [word for word in new if word[0] == "\n"]:
            known[word] = self._encoder.encode(word, return_type="numpy").tobytes()
        # One call for all the others, as lines of one text: a call for each takes as long as its encoding.
        lines = [word for word in new if word[0] != "\n"]
        ids = self._encoder.encode("\n".join(lines), return_type="numpy")
        (newline,) = self._encoder.encode("\n")
        content, start = ids.tobytes(), 0
        ends = [*(np.flatnonzero(ids == newline) * ids.itemsize).tolist(), len(content)]
        for line, end in zip(lines, ends[: len(lines)], strict=True):
            known[line] = content[start:end]
            start = end + ids.itemsize
        self._remembered += sum(map(len, new)) + _ENTRY_CHARACTERS * len(new)
        if self._remembered > _MEMORY_CHARACTERS:
            self._words, self._remembered = {}, 0


def parse_model(content: bytes) -> Any:
    """The model's own description. Raises ValueError where the bytes are none."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        raise ValueError("not a sentencepiece model") from None
    if not proto.pieces:
        raise ValueError("not a sentencepiece model")
    return proto


def _content(piece: Any) -> bytes:
    if piece.type in (UNKNOWN, CONTROL):
        return b""
    if piece.type == BYTE:
        return bytes([int(piece.piece[3:5], 16)])
    content: bytes = piece.piece.replace(SPACE, " ").encode()
    return content


def _word_by_word(proto: Any) -> bool:
    """Whether any text gives the same ids whole and cut into words."""
    spec, normal = proto.trainer_spec, proto.normalizer_spec
    as_it_is = not normal.precompiled_charsmap and not normal.remove_extra_whitespaces
    if spec.model_type != BPE or not as_it_is or not normal.escape_whitespaces:
        return False
    found = [piece.piece for piece in proto.pieces if piece.type not in (UNKNOWN, CONTROL, BYTE)]
    # Neighbours without a piece become one unknown id together, so nothing may be unknown at a cut.
    return (spec.byte_fallback or {"\n", SPACE} <= set(found)) and all(
        _WORD.fullmatch(piece) for piece in found
    )
