"""Removes lines that are no text, and drops what is then too little or no prose: the rules of C4."""

import re
from functools import partial

from data_tools.analysis import analyse
from data_tools.document import Document, Drop, Step
from data_tools.fences import Unit, joined
from data_tools.sections import Count, Section
from data_tools.sentences import count_sentences, ends_sentence
from data_tools.words import UNSPACED_RANGES, split_words

_CITATION = re.compile(r"\[\d*\]|\[(?:edit|citation needed|编辑|編輯|来源请求|來源請求)\]")
_UNSPACED = re.compile(f"[{UNSPACED_RANGES}]")
_QUOTES = ("'", '"')
_DROPS_DOCUMENT = ("lorem_ipsum", "curly_bracket")


class C4Quality(Section):
    """Raffel et al. 2020 (T5, arXiv:1910.10683), section 2.2, and the rules of its code; null leaves one out.

    By line: at least `min_words_in_line` words, none of over `max_word_characters`, no mention of javascript,
    none of the `policy_phrases`, and by option the end of a sentence or a quotation mark at its end. By
    document: no `{`, no "lorem ipsum", at least `min_sentences` in the lines that stay. A line in a script
    without spaces has enough words from `min_unspaced_letters_in_line` letters on.

    A preformatted block (between fences ```, or indented) is kept whole: only the rules of the document look
    into it. The rows of a table or of a list of definitions (lines that hold a tab) are judged as one line.

    `require_sentence_end` is on in C4 and off here, as in FineWeb (arXiv:2406.17557, section 3.5): it takes
    verse and texts with wrapped lines apart.
    """

    require_sentence_end: bool = False
    min_words_in_line: Count | None = 3
    min_unspaced_letters_in_line: Count = 5
    max_word_characters: Count | None = 1000
    min_sentences: Count | None = 5
    remove_citations: bool = True
    """Such as "[1]", "[edit]", "[citation needed]", and their Chinese."""
    drop_lorem_ipsum: bool = True
    drop_curly_bracket: bool = True
    remove_javascript_lines: bool = True
    policy_phrases: tuple[str, ...] = (
        *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
        *("使用条款", "服务条款", "隐私政策", "隐私权政策", "使用cookie", "使用 cookie"),
        *("使用條款", "服務條款", "隱私政策", "隱私權政策"),
    )
    """Sought in any case."""

    def build(self) -> Step:
        """The step."""
        return partial(_step, self, tuple(phrase.lower() for phrase in self.policy_phrases))


def _step(rules: C4Quality, policy_phrases: tuple[str, ...], document: Document) -> Document | Drop:
    kept: list[tuple[bool, Unit]] = []
    sentences, enough = 0, rules.min_sentences or 0
    analysis = analyse(document.text)
    changed = False
    for unit in analysis.units:
        text = unit.lines[0] if len(unit.lines) == 1 else "\n".join(unit.lines)
        stripped = text.strip()
        if not stripped:
            kept.append((True, unit))
            continue
        if unit.kind == "preformatted":
            fault = _fault_of_document(rules, stripped)
        else:
            fault = _fault(rules, policy_phrases, stripped)
        if fault in _DROPS_DOCUMENT:
            return Drop(f"c4_quality.{fault}", stripped[:200])
        if fault:
            document.counts[f"c4_quality.{fault}"] += len(unit.lines)
            kept.append((False, unit))
            changed = True
            continue
        if unit.kind == "preformatted":
            sentences += 1
        else:
            if rules.remove_citations and "[" in text and (cleaned := _CITATION.sub("", text)) != text:
                unit, changed = Unit(unit.kind, cleaned.split("\n")), True
            sentences += sum(map(count_sentences, unit.lines)) if sentences < enough else 0
        kept.append((True, unit))
    if sentences < enough:
        return Drop("c4_quality.too_few_sentences", f"{sentences} sentences")
    if changed:
        document.text = joined(kept)
        if not document.text.strip():
            return Drop("c4_quality.nothing_left", f"all of {len(analysis.lines)} lines")
    return document


def _fault_of_document(rules: C4Quality, text: str) -> str | None:
    """Why the whole document goes because of a preformatted block, which is never taken apart."""
    if rules.drop_lorem_ipsum and "lorem ipsum" in text.lower():
        return "lorem_ipsum"
    return "curly_bracket" if rules.drop_curly_bracket and "{" in text else None


def _fault(rules: C4Quality, policy_phrases: tuple[str, ...], line: str) -> str | None:
    """Why a line goes, or, by _DROPS_DOCUMENT, the whole document; in the order of C4's code."""
    lower = line.lower()
    if rules.max_word_characters is not None and _has_long_word(line, rules.max_word_characters):
        return "long_word"
    if rules.require_sentence_end and not _ends(_CITATION.sub("", line)):
        return "no_sentence_end"
    if rules.min_words_in_line is not None and _too_few_words(rules, line):
        return "too_few_words"
    if rules.drop_lorem_ipsum and "lorem ipsum" in lower:
        return "lorem_ipsum"
    if rules.remove_javascript_lines and "javascript" in lower:
        return "javascript"
    if rules.drop_curly_bracket and "{" in line:
        return "curly_bracket"
    if any(phrase in lower for phrase in policy_phrases):
        return "policy"
    return None


def _ends(line: str) -> bool:
    return line.endswith(_QUOTES) or (ends_sentence(line) and not line.endswith("..."))


def _has_long_word(line: str, most: int) -> bool:
    return len(line) > most and int(split_words(line).lengths.max(initial=0)) > most


def _too_few_words(rules: C4Quality, line: str) -> bool:
    return (
        len(line.split()) < (rules.min_words_in_line or 0)
        and len(_UNSPACED.findall(line)) < rules.min_unspaced_letters_in_line
    )
