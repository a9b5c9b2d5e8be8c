"""Where sentences end, in Latin, Chinese and other scripts."""

import re

# Marks that end a sentence: Latin; Chinese and Japanese; Arabic, Indic, Armenian, Ethiopic, Khmer, Burmese.
TERMINAL = frozenset(".!?‼‽⁇⁈⁉。！？｡．﹒﹖﹗؟۔।॥։።፧។៕၊။")
# Marks that may follow the end of a sentence and close what it stands in.
_CLOSING = "」』”’）》】〉〕"
_ELLIPSIS = "……"
# Marks that end a sentence: those of the group always, Latin ones before a space or the text's end.
_END = re.compile(r"""[.!?]+["'”’)\]]*|([。！？｡．…؟۔।॥։።፧។៕။]+[」』”’）】]*)""")


def ends_sentence(line: str) -> bool:
    """Whether a line, without spaces at its end, ends as a sentence does.

    Chinese closing quotes and brackets after the mark are looked through, and "……", Chinese for an ellipsis,
    is one.
    """
    return line.rstrip(_CLOSING)[-1:] in TERMINAL or line.endswith(_ELLIPSIS)


def count_sentences(text: str) -> int:
    """How many sentences a line has, by its marks; a line without any is one."""
    ends = sum(
        match[1] is not None or match.end() == len(text) or text[match.end()].isspace()
        for match in _END.finditer(text)
    )
    return max(1, ends)
