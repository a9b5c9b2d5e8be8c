"""Mends the characters of a document: Unicode, line ends, control characters, by option mojibake."""

import re
import unicodedata
from functools import partial

from data_tools.document import Document, Step
from data_tools.sections import Section

_NEWLINES = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Controls but tab and newline; byte order mark; noncharacters. Joiners and variation selectors carry meaning.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ufeff\ufdd0-\ufdef\ufffe\uffff]")
# JSON can spell half of a pair ("\ud800"), which no encoding can write.
_SURROGATES = re.compile("[\ud800-\udfff]")
# Sentencepiece writes a space as this sign, and would read the sign itself back as a space.
_SPACE_SIGN = "▁"


class Clean(Section):
    """What is done to the characters of a document; it drops none."""

    fix_encoding: bool = False
    """Mend text that was decoded wrongly (mojibake), by ftfy."""

    def build(self) -> Step:
        """The step."""
        return partial(_step, self.fix_encoding)


def _step(fix_encoding: bool, document: Document) -> Document:
    document.text = clean_text(document.text, fix_encoding=fix_encoding)
    return document


def clean_text(text: str, *, fix_encoding: bool) -> str:
    """Text in NFC, with `\\n` for every kind of line end and without control characters. Idempotent.

    Compatibility forms stay as they are: full-width punctuation is Chinese, not an accident.
    """
    text = _SURROGATES.sub("\ufffd", text)
    if fix_encoding:
        text = _fix_encoding(text)
    text = _CONTROLS.sub("", _NEWLINES.sub("\n", text)).replace(_SPACE_SIGN, "_")
    return unicodedata.normalize("NFC", text)


def _fix_encoding(text: str) -> str:
    import ftfy  # 0.1 s to import, and off by default.

    return ftfy.fix_text(
        text,
        unescape_html=False,
        fix_character_width=False,
        fix_latin_ligatures=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_terminal_escapes=True,
        normalization=None,
    )
