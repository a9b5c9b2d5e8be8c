"""Drops documents that repeat themselves: the rules of Gopher."""

from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field

from data_tools.analysis import Analysis, analyse, repeated
from data_tools.document import Document, Drop, Step
from data_tools.ngrams import characters_in_copies, most_in_one_ngram, repeated_ngrams
from data_tools.sections import Section, Share

_BRAHMIC_WORDS = 2.0  # Times as many letters as a Chinese word: about 3.4, without vowel signs.
Sizes = dict[Annotated[int, Field(ge=1, le=64)], Share]


class GopherRepetition(Section):
    """Rae et al. 2021 (Gopher, arXiv:2112.11446), table A1; the defaults are its thresholds.

    Each is the largest share that a kept document has; null, or no size, leaves a rule out. "Characters" are
    characters of the whole text. In a text without spaces between words `characters_per_word` letters stand
    for a word (twice as many in Thai, Lao, Burmese and Khmer), so that a 5-gram is as long as in English. An
    n-gram that occurs once repeats nothing, however short the text.
    """

    max_duplicate_lines: Share | None = 0.30
    max_duplicate_paragraphs: Share | None = 0.30
    max_duplicate_line_characters: Share | None = 0.20
    max_duplicate_paragraph_characters: Share | None = 0.20
    max_top_ngram: Sizes = Field({2: 0.20, 3: 0.18, 4: 0.16})
    """By n: the share in the most frequent n-gram."""
    max_duplicate_ngrams: Sizes = Field({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10})
    characters_per_word: Annotated[float, Field(ge=1, le=4)] = 1.7
    """Of scripts without spaces; 1.72 in the 907,000 words of Chinese news in the PKU corpus."""

    def build(self) -> Step:
        """The step."""
        return partial(_step, self)


def _step(rules: GopherRepetition, document: Document) -> Document | Drop:
    analysis = analyse(document.text)
    return _repeated_lines(rules, analysis) or _repeated_ngrams(rules, analysis) or document


def _repeated_lines(rules: GopherRepetition, analysis: Analysis) -> Drop | None:
    for name, parts, most, most_characters in (
        (
            "paragraph",
            analysis.paragraphs,
            rules.max_duplicate_paragraphs,
            rules.max_duplicate_paragraph_characters,
        ),
        ("line", analysis.filled_lines, rules.max_duplicate_lines, rules.max_duplicate_line_characters),
    ):
        copies, characters = repeated(parts)
        if most is not None and copies > most * len(parts):
            return Drop(
                f"gopher_repetition.duplicate_{name}s",
                f"{copies} of {len(parts)} {name}s are copies, above {most:.0%}",
            )
        if most_characters is not None and characters > most_characters * len(analysis.text):
            return Drop(
                f"gopher_repetition.duplicate_{name}_characters",
                f"{characters} of {len(analysis.text)} characters are in copied {name}s, "
                f"above {most_characters:.0%}",
            )
    return None


def _repeated_ngrams(rules: GopherRepetition, analysis: Analysis) -> Drop | None:
    words = analysis.words
    scale = rules.characters_per_word if words.mostly_unspaced else 1.0
    if words.mostly_unspaced and words.mostly_brahmic:
        scale *= _BRAHMIC_WORDS
    top = {int(size * scale + 0.5): (size, most) for size, most in rules.max_top_ngram.items()}
    copied = {int(size * scale + 0.5): (size, most) for size, most in rules.max_duplicate_ngrams.items()}
    before = np.append(0, np.cumsum(words.lengths))
    for ngrams in repeated_ngrams(words.hashes, {*top, *copied}):
        lengths = before[ngrams.starts + ngrams.size] - before[ngrams.starts]
        if rule := top.get(ngrams.size):
            spaces = 0 if words.mostly_unspaced else ngrams.size - 1
            characters = most_in_one_ngram(ngrams, lengths + spaces)
            if characters > rule[1] * len(analysis.text):
                return _drop(analysis, f"top_{rule[0]}_gram", characters, "the most frequent one", rule[1])
        if rule := copied.get(ngrams.size):
            characters = characters_in_copies(ngrams, lengths, rule[1] * len(analysis.text))
            if characters > rule[1] * len(analysis.text):
                return _drop(analysis, f"duplicate_{rule[0]}_gram", characters, "copies of one", rule[1])
    return None


def _drop(analysis: Analysis, rule: str, characters: int, where: str, most: float) -> Drop:
    return Drop(
        f"gopher_repetition.{rule}",
        f"at least {characters} of {len(analysis.text)} characters are in {where}, above {most:.0%}",
    )
