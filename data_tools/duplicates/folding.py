"""What a character counts as when texts are compared: the letter it is folded to, how it joins words."""

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Numbers = Literal["same", "distinct"]
UInts = npt.NDArray[np.uint64]

SEPARATOR: Final = 0  # Blanks, punctuation, symbols: between words.
LETTER: Final = 1  # Makes a word with its neighbours.
ALONE: Final = 2  # A unit of its own, in scripts that set no blanks between words.
INVISIBLE: Final = 3  # Accents and signs without width: part of what they follow, and nothing themselves.

# Above are private use, tags and unassigned planes: separators.
_SIZE: Final = 0x32400
# CJK ideographs and kana, Bopomofo, Thai, Lao, Burmese, Khmer.
_ALONE_RANGES: Final = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007)),
    *((0x3021, 0x3029), (0x3041, 0x312F), (0x31A0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xF900, 0xFAFF), (0x20000, 0x323FF)),
)
# Accents, Hebrew and Arabic vowel points, kana voicing, variation selectors.
_ACCENT_RANGES: Final = (
    *((0x0300, 0x036F), (0x0591, 0x05C7), (0x064B, 0x065F), (0x0670, 0x0670), (0x3099, 0x309A)),
    *((0xFE00, 0xFE0F), (0xFE20, 0xFE2F)),
)
# Each stands for itself, and there are too many to ask one by one: Hangul and ideographs.
_PLAIN_RANGES: Final = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x20000, 0x2F7FF),
    (0x30000, 0x323FF),
)


@dataclass(frozen=True)
class Folding:
    """Tables over code points; all above the last entry count as the last.

    `kind` says how a character joins its neighbours, `value` [n] which letters it is folded to (as a
    polynomial in `base` where there are several, "ﬁ" as "fi") and `length` how many those are.
    """

    kind: npt.NDArray[np.uint8]
    value: UInts
    length: npt.NDArray[np.uint8]


@cache
def make_folding(numbers: Numbers, base: int) -> Folding:
    """The tables: case, width, ligatures and accents folded away; with numbers "same" every digit is 0."""
    kind = np.full(_SIZE, SEPARATOR, np.uint8)
    value = np.zeros(_SIZE, np.uint64)
    length = np.ones(_SIZE, np.uint8)
    alone = _members(_ALONE_RANGES)
    plain = _members(_PLAIN_RANGES)
    value[plain] = np.flatnonzero(plain)
    kind[plain] = np.where(alone[plain], ALONE, LETTER)
    accents = _members(_ACCENT_RANGES)
    for code in np.flatnonzero(~plain[:-1]).tolist():
        category = unicodedata.category(chr(code))
        if accents[code] or category == "Cf":  # Cf: soft hyphens, joiners, marks of direction.
            kind[code], length[code] = INVISIBLE, 0
        elif category[0] != "C" and (folded := _fold(chr(code), numbers, accents)):
            kind[code] = ALONE if alone[ord(folded[0])] else LETTER
            value[code] = sum(ord(letter) * base**at for at, letter in enumerate(folded)) % 2**64
            length[code] = len(folded)
    for table in (kind, value, length):
        table.flags.writeable = False
    return Folding(kind, value, length)


def _fold(character: str, numbers: Numbers, accents: npt.NDArray[np.bool_]) -> str:
    """The letters and digits that a character stands for; none for punctuation, blanks and symbols."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", character.casefold()) if not accents[ord(c)])
    folded = unicodedata.normalize("NFKC", bare).casefold()
    return "".join(_fold_digit(c, numbers) for c in folded if unicodedata.category(c)[0] in "LMN")


def _fold_digit(character: str, numbers: Numbers) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is None:
        return character
    return "0" if numbers == "same" else str(digit)


def _members(ranges: tuple[tuple[int, int], ...]) -> npt.NDArray[np.bool_]:
    members = np.zeros(_SIZE, bool)
    for first, last in ranges:
        members[first : min(last + 1, _SIZE - 1)] = True
    return members
