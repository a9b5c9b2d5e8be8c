"""Texts to units: words, or single characters where a script sets no blanks between words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from data_tools.duplicates.folding import (
    ALONE,
    INVISIBLE,
    LETTER,
    SEPARATOR,
    Numbers,
    UInts,
    make_folding,
)
from data_tools.duplicates.hashing import BASE, Ints, SpanHasher

Unit = Literal["words", "characters"]
# Characters worked on at once: the arrays stay in the processor's second cache.
_BLOCK: Final = 1 << 17
# How far back from the end of a block a blank is looked for to cut at.
_CUT: Final = 1 << 12


@dataclass(frozen=True)
class Units:
    """The units of some texts, one text after the other.

    `hash` [units]; `start`, `end` [units] are characters of the unit's own text; `single` [units] tells
    single characters of a script without blanks from words; text d's units are first[d]:first[d + 1].
    """

    hash: UInts
    start: Ints
    end: Ints
    single: npt.NDArray[np.bool_]
    first: Ints


class Splitter:
    """Cuts texts into units and hashes each, folded: case, width, accents, and digits by choice."""

    def __init__(self, unit: Unit, numbers: Numbers) -> None:
        self._folding = make_folding(numbers, BASE)
        self._unit = unit
        self._hasher = SpanHasher(_BLOCK)

    def __call__(self, texts: Sequence[str]) -> Units:
        """The units of the texts, in order; equal units have equal hashes, whatever stands around them."""
        blocks = [self._block(pieces) for pieces in _blocks(texts)] or [self._block([_Piece("", 0, 0)])]
        counts = sum(np.bincount(block.document, minlength=len(texts)) for block in blocks)
        return Units(
            np.concatenate([block.hash for block in blocks]),
            np.concatenate([block.start for block in blocks]),
            np.concatenate([block.end for block in blocks]),
            np.concatenate([block.single for block in blocks]),
            np.concatenate([[0], np.cumsum(counts)]),
        )

    def _block(self, pieces: "Sequence[_Piece]") -> "_Block":
        joined = "\n".join([piece.text for piece in pieces])
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.intp)
        folding = self._folding
        kind = folding.kind.take(codes, mode="clip")
        if self._unit == "characters":
            kind[kind == LETTER] = ALONE
        length = folding.length.take(codes, mode="clip")
        start, end = _bounds(kind)
        exponent = None
        if (length != 1).any():
            exponent = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
            visible = exponent[start] < exponent[end]
            start, end = start[visible], end[visible]
        hashes = self._hasher(folding.value.take(codes, mode="clip"), start, end, exponent)
        ends = np.cumsum([len(piece.text) + 1 for piece in pieces])
        units = np.diff(np.searchsorted(start, ends), prepend=0)
        behind = np.array([piece.offset + len(piece.text) + 1 for piece in pieces], np.int64)
        moved = np.repeat(behind - ends, units)
        document = np.repeat(np.array([piece.document for piece in pieces], np.int64), units)
        return _Block(hashes, start + moved, end + moved, kind[start] == ALONE, document)


def _bounds(kind: npt.NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Where units begin and end."""
    before = np.concatenate([[np.uint8(SEPARATOR)], kind[:-1]])
    begins = kind == ALONE
    begins |= (kind == LETTER) & (before != LETTER) & (before != INVISIBLE)
    begins |= (kind == INVISIBLE) & (before == SEPARATOR)
    turns = np.flatnonzero(begins | ((kind == SEPARATOR) & (before != SEPARATOR)))
    which = np.flatnonzero(begins[turns])
    return turns[which], np.append(turns, len(kind))[which + 1]


@dataclass(frozen=True)
class _Block:
    """The units of some pieces, and which document each belongs to."""

    hash: UInts
    start: Ints
    end: Ints
    single: npt.NDArray[np.bool_]
    document: Ints


@dataclass(frozen=True)
class _Piece:
    """A text, or a part of one that is too long for a block."""

    text: str
    document: int
    offset: int


def _blocks(texts: Sequence[str]) -> Iterator[list[_Piece]]:
    """Pieces of about a block's size together; where a text is cut depends on that text alone."""
    block: list[_Piece] = []
    size = 0
    for document, text in enumerate(texts):
        for piece in _pieces(text, document):
            if size + len(piece.text) > _BLOCK and block:
                yield block
                block, size = [], 0
            block.append(piece)
            size += len(piece.text) + 1
    if block:
        yield block


def _pieces(text: str, document: int) -> Iterator[_Piece]:
    begin = 0
    while len(text) - begin > _BLOCK:
        end = begin + _BLOCK
        blank = max(text.rfind(sign, end - _CUT, end) for sign in " \n")
        cut = end if blank < 0 else blank
        yield _Piece(text[begin:cut], document, begin)
        begin = cut
    yield _Piece(text[begin:], document, begin)
