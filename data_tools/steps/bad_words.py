"""Drops documents with words of a list that the user gives."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from pydantic import Field, model_validator

from data_tools.document import Document, Drop, Step
from data_tools.sections import Count, Section
from data_tools.words import UNSPACED_RANGES
from megatrain.errors import UserError, require
from megatrain.settings import PathText

_UNSPACED = re.compile(f"[{UNSPACED_RANGES}]")
_SPACED_LETTER = rf"[^\W{UNSPACED_RANGES}]"
_LONGEST = 100


class BadWords(Section):
    """Files of words and phrases, one a line, in any case, width and composition; a document with over
    `max_matches` is dropped.

    As in C4 (Raffel et al. 2020), a word must stand alone, "ass" is not in "class", but is found anywhere in
    the text where it has letters of a script without spaces. `by_language` is for documents of that language
    ("language" in the metadata, by the step of that name), `file` for all.
    """

    file: PathText | None = None
    by_language: dict[str, PathText] = Field(default_factory=dict)
    max_matches: Count = 0

    @model_validator(mode="after")
    def _some_file(self) -> "BadWords":
        if self.file is None and not self.by_language:
            raise ValueError("give file or by_language")
        return self

    def build(self) -> Step:
        """The step. Raises UserError where a file cannot be read or holds no words."""
        everywhere = _read(self.file) if self.file else frozenset[str]()
        patterns = {
            language: pattern_of(everywhere | _read(file)) for language, file in self.by_language.items()
        }
        return partial(_step, self.max_matches, patterns, pattern_of(everywhere))


def _step(
    most: int, by_language: Mapping[str, re.Pattern[str]], everywhere: re.Pattern[str], document: Document
) -> Document | Drop:
    pattern = by_language.get(document.metadata.get("language", ""), everywhere)
    found = list(islice(pattern.finditer(in_one_form(document.text)), most + 1))
    if len(found) <= most:
        return document
    return Drop("bad_words.found", ", ".join(sorted({match[0] for match in found})))


def in_one_form(text: str) -> str:
    """A text without what case, width and composition make of the same word: "ＳＴＲＡẞＥ" is "strasse"."""
    # The capital dotted I of Turkish becomes an i and a dot.
    return unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")


def pattern_of(words: Iterable[str]) -> re.Pattern[str]:
    """What finds any of some words in a text, both `in_one_form`; without words, nothing."""
    spaced = sorted(word for word in words if not _UNSPACED.search(word))
    unspaced = sorted(word for word in words if _UNSPACED.search(word))
    parts = []
    if spaced:
        parts.append(rf"(?<!{_SPACED_LETTER})(?:{_alternatives(spaced)})(?!{_SPACED_LETTER})")
    if unspaced:
        parts.append(_alternatives(unspaced))
    return re.compile("|".join(parts) or r"(?!)")


def _alternatives(words: list[str]) -> str:
    """A pattern for any of some sorted words, common beginnings once: the time of a search hardly grows with
    the list."""
    branches = [
        re.escape(first) + _alternatives([word[1:] for word in group])
        for first, group in groupby(filter(None, words), key=lambda word: word[0])
    ]
    ends_here = "" in words
    if len(branches) == 1 and not ends_here:
        return str(branches[0])
    return f"(?:{'|'.join(branches)})" + "?" * ends_here if branches else ""


def _read(file: str) -> frozenset[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"bad_words: {file}: cannot be read as a list of words: {error}") from None
    for number, line in enumerate(lines, 1):
        require(
            len(line) <= _LONGEST,
            f"bad_words: {file}:{number}: {len(line)} characters; write one word or phrase a line",
        )
    words = frozenset(word for line in lines if (word := in_one_form(line.strip())))
    require(words, f"bad_words: {file}: holds no words")
    return words
