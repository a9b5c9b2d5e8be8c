"""What a word is, in scripts with and without spaces between words: the one splitter of all steps."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

# The classes of characters, as bits.
SPACE, WORD, UNSPACED, LETTER, SYLLABLE, MARK, BRAHMIC, HAN = 1, 2, 4, 8, 16, 32, 64, 128
# First and last characters of scripts of syllables: Tibetan, Ethiopic, Cherokee, Canadian, Vai, Hangul.
_SYLLABIC_SCRIPTS = (
    (0x0F40, 0x0FBC),
    (0x1200, 0x139F),
    (0x13A0, 0x167F),
    (0xA500, 0xA63F),
    (0xAB00, 0xAB2F),
    (0xAB70, 0xABBF),
    (0xAC00, 0xD7A3),
)
# What parts the syllables and clauses of Tibetan.
_TIBETAN_SPACES = (0x0F0B, 0x0F0C, 0x0F0D, 0x0F0E, 0x0F0F, 0x0F11, 0x0F14)
# The unspaced ones whose words are several letters: Thai, Lao, Burmese, Khmer, Tai and Javanese, Balinese.
_BRAHMIC_SCRIPTS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19DF),
    (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F),
    (0xA980, 0xA9FF),
    (0xAA60, 0xAADF),
)
_HAN_SCRIPT = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
# First and last characters of scripts without spaces: those, kana, Bopomofo, Yi, Han.
_UNSPACED_SCRIPTS = (
    *_BRAHMIC_SCRIPTS,
    *_HAN_SCRIPT,
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3031, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0xA000, 0xA4CF),
    (0xFF66, 0xFF9D),
    (0x1AFF0, 0x1B16F),
)
# The same for a regular expression, between brackets.
UNSPACED_RANGES = "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED_SCRIPTS)
_ASSIGNED = 0x40000  # Beyond it stand only tags, variation selectors and private characters.
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)
_POWERS = 1024


@dataclass(frozen=True)
class Words:
    """The words of a text, N of them among its C characters; `text[starts[i]:ends[i]]` is one.

    Between spaces stands one word, without the punctuation at its ends: "don't", "3.14". In a script without
    spaces every letter is a word, and its punctuation none. Signs that stand alone between spaces ("|", "->")
    are words too, but not `spoken`.
    """

    text: str
    codes: npt.NDArray[np.uint32]
    classes: npt.NDArray[np.uint8]
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def lengths(self) -> Ints:
        """Characters a word [N]."""
        return self.ends - self.starts

    @cached_property
    def unspaced(self) -> npt.NDArray[np.bool_]:
        """Which words are single letters of a script without spaces [N]."""
        return (self.classes[self.starts] & UNSPACED).astype(bool)

    @cached_property
    def spoken(self) -> npt.NDArray[np.bool_]:
        """Which words are more than signs [N]."""
        return (self.classes[self.starts] & (WORD | UNSPACED)).astype(bool)

    @cached_property
    def with_letter(self) -> npt.NDArray[np.bool_]:
        """Which words have a letter [N]."""
        return self.count_of(LETTER) > 0

    def count_of(self, kind: int) -> Ints:
        """How many characters of a class each word has [N]."""
        before = np.zeros(len(self.codes) + 1, np.int64)
        np.cumsum((self.classes & kind) != 0, out=before[1:])
        return before[self.ends] - before[self.starts]

    @cached_property
    def mostly_unspaced(self) -> bool:
        """Whether the text is to be read as Chinese is: most words are letters of a script without spaces."""
        return 2 * int(np.count_nonzero(self.unspaced)) > int(np.count_nonzero(self.spoken))

    @cached_property
    def mostly_brahmic(self) -> bool:
        """Whether most unspaced letters are of scripts whose words are several letters, as Thai."""
        found = int(np.count_nonzero(self.classes[self.starts] & BRAHMIC))
        return 2 * found > int(np.count_nonzero(self.unspaced))

    @cached_property
    def mostly_han(self) -> bool:
        """Whether nearly all unspaced letters are Han characters: Japanese has a third of kana and more."""
        found = int(np.count_nonzero(self.classes[self.starts] & HAN))
        return 10 * found > 9 * int(np.count_nonzero(self.unspaced))

    @cached_property
    def hashes(self) -> Hashes:
        """A hash of each word's characters [N], the same on every machine."""
        if not len(self):
            return np.zeros(0, np.uint64)
        place = np.arange(len(self.codes)) - np.repeat(
            np.append(0, self.starts), np.diff(self.starts, prepend=0, append=len(self.codes))
        )
        terms = (self.codes + np.uint64(1)) * _MIX
        terms ^= terms >> _SHIFT
        terms *= _powers()[place % _POWERS]
        before = np.zeros(len(terms) + 1, np.uint64)
        np.cumsum(terms, out=before[1:])
        found = before[self.ends] - before[self.starts]
        found ^= found >> _SHIFT
        found *= _MIX
        return found

    def strings(self) -> list[str]:
        """The words themselves."""
        text = self.text
        return [text[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


def split_words(text: str) -> Words:
    """The words of a text, as Words says. Half a surrogate pair counts as a sign."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    classes = _classes()[codes]
    outside = np.ones(len(codes) + 2, bool)  # Where no word of a spaced script can be, and the text's edges.
    np.not_equal(classes & (SPACE | UNSPACED), 0, out=outside[1:-1])
    steps = np.flatnonzero(outside[1:] != outside[:-1])
    begins, stops = steps[::2], steps[1::2]
    starts, ends = _trimmed(classes, begins, stops)
    single = (classes & UNSPACED) != 0
    if single.any():
        starts, ends = _merged(starts, single), _merged(ends - 1, single) + 1
    return Words(text, codes, classes, starts, ends)


def hash_words(words: Sequence[str]) -> Hashes:
    """The hash that Words.hashes has for each of some words [n]; each must be one word."""
    return split_words(" ".join(words)).hashes


def _trimmed(classes: npt.NDArray[np.uint8], begins: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """The words within runs between spaces and unspaced letters: from the first letter or digit to the last.

    A run without any is a word where it stands alone.
    """
    inner = np.flatnonzero((classes & WORD) != 0)
    first = np.searchsorted(inner, begins)
    after = np.searchsorted(inner, stops)
    spoken = after > first
    starts, ends = begins.copy(), stops.copy()
    starts[spoken] = inner[first[spoken]]
    ends[spoken] = inner[after[spoken] - 1] + 1
    free = np.ones(len(classes) + 2, bool)
    np.equal(classes & UNSPACED, 0, out=free[1:-1])
    kept = spoken | (free[begins] & free[stops + 1])
    return starts[kept], ends[kept]


def _merged(places: Ints, single: npt.NDArray[np.bool_]) -> Ints:
    """Places in ascending order, and those that `single` marks."""
    marked = single.copy()
    marked[places] = True
    return np.flatnonzero(marked)


@cache
def _powers() -> Hashes:
    powers = np.cumprod(np.full(_POWERS, _BASE), dtype=np.uint64)
    powers.flags.writeable = False
    return powers


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """The class of every character [0x110000]."""
    table = np.zeros(0x110000, np.uint8)
    known = table[:_ASSIGNED]
    characters = list(map(chr, range(_ASSIGNED)))
    alphanumeric = np.fromiter(map(str.isalnum, characters), bool, _ASSIGNED)
    mark = np.fromiter((unicodedata.category(c)[0] == "M" for c in characters), bool, _ASSIGNED)
    unspaced = _within(_UNSPACED_SCRIPTS)
    known[(alphanumeric | mark) & ~unspaced] = WORD
    known[ord("_")] = WORD
    known[alphanumeric & unspaced] = UNSPACED
    known[np.fromiter(map(str.isspace, characters), bool, _ASSIGNED)] |= SPACE
    known[np.fromiter(map(str.isalpha, characters), bool, _ASSIGNED)] |= LETTER
    known[list(_TIBETAN_SPACES)] = SPACE
    known[alphanumeric & _within(_SYLLABIC_SCRIPTS)] |= SYLLABLE
    known[alphanumeric & _within(_BRAHMIC_SCRIPTS)] |= BRAHMIC
    known[alphanumeric & _within(_HAN_SCRIPT)] |= HAN
    known[mark] |= MARK
    table.flags.writeable = False
    return table


def _within(scripts: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which characters are between the first and last ones of some scripts [_ASSIGNED]."""
    found = np.zeros(_ASSIGNED, bool)
    for first, last in scripts:
        found[first : last + 1] = True
    return found
