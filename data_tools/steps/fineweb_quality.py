"""Drops lists, menus and pages of fragments: the rules that FineWeb added to Gopher's and C4's."""

from functools import partial
from typing import Annotated

from pydantic import Field

from data_tools.analysis import analyse, repeated
from data_tools.document import Document, Drop, Step
from data_tools.sections import Count, Section, Share
from data_tools.sentences import ends_sentence, marks_no_ends


class FinewebQuality(Section):
    """Penedo et al. 2024 (FineWeb, arXiv:2406.17557), section 3.6, and its code; null leaves a rule out.

    Lines are those with more than spaces; a block between fences (```) is one line.

    `max_duplicate_characters` is the paper's 0.1; the code that the
    paper's authors published (datatrove) has 0.01, which one repeated heading or "Reply" is enough for.
    `max_lines_per_word` is of the code alone; a letter of a script without spaces counts as a word there.
    """

    min_lines_with_end: Share | None = 0.12
    """Lines that end with a mark that ends a sentence; not asked in Thai and Lao, which have none."""
    max_short_lines: Share | None = 0.67
    short_line_characters: Count = 30
    """A line of as many characters is still short."""
    short_line_characters_unspaced: Count = 10
    """The same for texts without spaces between words."""
    max_duplicate_characters: Share | None = 0.1
    """Of the characters in lines, those in copies of a line."""
    max_lines_per_word: Annotated[float, Field(ge=0)] | None = 0.3

    def build(self) -> Step:
        """The step."""
        return partial(_step, self)


def _step(rules: FinewebQuality, document: Document) -> Document | Drop:
    analysis = analyse(document.text)
    lines, words = analysis.filled_lines, analysis.words
    if not lines:
        return Drop("fineweb_quality.empty")
    total = len(lines)
    ends = sum(ends_sentence(line.rstrip()) for line in lines)
    few_ends = rules.min_lines_with_end is not None and ends < rules.min_lines_with_end * total
    if few_ends and not marks_no_ends(document.text):
        return Drop("fineweb_quality.lines_with_end", f"{ends} of {total} lines end with a sentence")
    most = rules.short_line_characters_unspaced if words.mostly_unspaced else rules.short_line_characters
    short = sum(len(line) <= most for line in lines)
    if rules.max_short_lines is not None and short > rules.max_short_lines * total:
        return Drop("fineweb_quality.short_lines", f"{short} of {total} lines have {most} characters or less")
    copied, characters = repeated(lines)[1], sum(map(len, lines))
    if rules.max_duplicate_characters is not None and copied > rules.max_duplicate_characters * characters:
        return Drop(
            "fineweb_quality.duplicate_characters",
            f"{copied} of {characters} characters are in copies of lines",
        )
    if rules.max_lines_per_word is not None and total - 1 > rules.max_lines_per_word * len(words):
        return Drop("fineweb_quality.lines_per_word", f"{total - 1} newlines to {len(words)} words")
    return document
