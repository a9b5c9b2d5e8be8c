"""Drops documents that are no prose: the quality rules of Gopher."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator

from data_tools.analysis import Analysis, analyse
from data_tools.document import Document, Drop, Step
from data_tools.sections import Count, Section, Share
from data_tools.words import MARK, SYLLABLE, Hashes, Words, hash_words, split_words

_BULLETS = ("-", "ㅇ ", *"•●◆■※·・･○◎◇□▪▫◦‣⁃▶►★☆❖➢➤")  # "ㅇ": a Korean list.
_ELLIPSES = ("...", "…", "⋯", "。。。", "．．．", "・・・")
_ELLIPSIS = re.compile(r"\.\.\.|……?|⋯⋯?|。{3,}|．{3,}|・{3,}")  # The Chinese one is written as two.
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_SAMPLE = 2000
Number = Annotated[float, Field(ge=0)]


class GopherQuality(Section):
    """Rae et al. 2021 (Gopher, arXiv:2112.11446), section A.1.1; the defaults are its thresholds.

    null leaves a rule out. A word is what stands between spaces, in scripts without spaces a letter; the mean
    length is that of the spaced words, and not asked where most words are unspaced letters. A syllable of
    Hangul, Ethiopic or Tibetan counts as two letters for the least mean length, and vowel signs and other
    marks do not count for the greatest. Stop words are those of the document's language ("language" in its
    metadata); without one, "zh" where most words are Han characters, and "en" where most letters are Latin.
    A language without a list is not asked for stop words.
    """

    min_words: Count | None = 50
    max_words: Count | None = 100_000
    min_mean_word_length: Number | None = 3
    max_mean_word_length: Number | None = 10
    max_symbol_ratio: Number | None = 0.1
    """Of "#" to words, and of ellipses to words."""
    max_bullet_lines: Share | None = 0.9
    max_ellipsis_lines: Share | None = 0.3
    min_words_with_letter: Share | None = 0.8
    min_stop_words: Count | None = 2
    """So many different ones."""
    stop_words: dict[str, tuple[str, ...]] = Field(
        {
            "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
            "zh": (  # Characters of function words, modern and classical, of both ways of writing.
                *"的是不了在有我你他这這那为為以也于於之而其者所無无何如此自相與与未已又更欲可從从和就都到要来來今非",
                *"若還还後后當当誰谁莫獨独共同向將将亦皆即乃則则矣哉乎焉兮多",
            ),
        }
    )

    @field_validator("stop_words")
    @classmethod
    def _single_words(cls, stop_words: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for language, words in stop_words.items():
            for word in words:
                if split_words(word).strings() != [word]:
                    raise ValueError(f"{language}: {word!r} is not one word (in Chinese: one character)")
        return stop_words

    def build(self) -> Step:
        """The step."""
        hashes = {language: hash_words(words) for language, words in self.stop_words.items()}
        return partial(_step, self, hashes)


def _step(rules: GopherQuality, stop_words: Mapping[str, Hashes], document: Document) -> Document | Drop:
    analysis = analyse(document.text)
    language = document.metadata.get("language") or _by_script(analysis) or ""
    return (
        _words(rules, analysis)
        or _symbols(rules, analysis)
        or _lines(rules, analysis)
        or _letters(rules, analysis)
        or _stop_words(rules, analysis, stop_words.get(language))
        or document
    )


def _by_script(analysis: Analysis) -> str | None:
    """The language whose stop words are asked for where none is named; None in other scripts."""
    if analysis.words.mostly_unspaced:
        return "zh" if analysis.words.mostly_han else None
    sample = analysis.text[:_SAMPLE]
    return "en" if 2 * len(_LATIN.findall(sample)) >= sum(map(str.isalpha, sample)) else None


def _words(rules: GopherQuality, analysis: Analysis) -> Drop | None:
    words = analysis.words
    count = int(np.count_nonzero(words.spoken))
    if count == 0 or (rules.min_words is not None and count < rules.min_words):
        return Drop("gopher_quality.too_few_words", f"{count} words")
    if rules.max_words is not None and count > rules.max_words:
        return Drop("gopher_quality.too_many_words", f"{count} words")
    if words.mostly_unspaced:
        return None
    return _mean_length(rules, words)


def _mean_length(rules: GopherQuality, words: Words) -> Drop | None:
    """The thresholds are made for alphabets: "등대는" has 3 syllables, 7 letters; "وَلَدٌ" 3 letters."""
    asked = words.spoken & ~words.unspaced
    short = float((words.lengths + words.count_of(SYLLABLE))[asked].mean())
    long = float((words.lengths - words.count_of(MARK))[asked].mean())
    if (rules.min_mean_word_length is not None and short < rules.min_mean_word_length) or (
        rules.max_mean_word_length is not None and long > rules.max_mean_word_length
    ):
        mean = float(words.lengths[asked].mean())
        return Drop("gopher_quality.mean_word_length", f"mean word length {mean:.2f}")
    return None


def _symbols(rules: GopherQuality, analysis: Analysis) -> Drop | None:
    text, most = analysis.text, rules.max_symbol_ratio
    if most is None:
        return None
    ellipses = len(_ELLIPSIS.findall(text))
    hashes = text.count("#") + text.count("＃")
    for name, count in ("hashes", hashes), ("ellipses", ellipses):
        if count > most * len(analysis.words):
            return Drop("gopher_quality.symbol_ratio", f"{count} {name} to {len(analysis.words)} words")
    return None


def _lines(rules: GopherQuality, analysis: Analysis) -> Drop | None:
    total = len(analysis.filled_lines)
    bullets = sum(line.lstrip().startswith(_BULLETS) for line in analysis.filled_lines)
    if rules.max_bullet_lines is not None and bullets > rules.max_bullet_lines * total:
        return Drop("gopher_quality.bullet_lines", f"{bullets} of {total} lines start with a bullet")
    ellipses = sum(line.rstrip().endswith(_ELLIPSES) for line in analysis.filled_lines)
    if rules.max_ellipsis_lines is not None and ellipses > rules.max_ellipsis_lines * total:
        return Drop("gopher_quality.ellipsis_lines", f"{ellipses} of {total} lines end with an ellipsis")
    return None


def _letters(rules: GopherQuality, analysis: Analysis) -> Drop | None:
    words, least = analysis.words, rules.min_words_with_letter
    count = int(np.count_nonzero(words.with_letter))
    if least is not None and count < least * len(words):
        return Drop("gopher_quality.words_with_letter", f"{count} of {len(words)} words have a letter")
    return None


def _stop_words(rules: GopherQuality, analysis: Analysis, stop_words: Hashes | None) -> Drop | None:
    if rules.min_stop_words is None or stop_words is None:
        return None
    count = int(np.count_nonzero(np.isin(stop_words, analysis.words.hashes)))
    if count < rules.min_stop_words:
        return Drop("gopher_quality.stop_words", f"{count} different stop words")
    return None
