"""Where sentences end, in Latin, Chinese and other scripts."""

import re

# Marks that end a sentence: Latin; Chinese and Japanese; Arabic, Indic, Armenian, Ethiopic, Khmer, Burmese.
TERMINAL = frozenset(".!?‼‽⁇⁈⁉。！？｡．﹒﹖﹗؟۔।॥։።፧។៕၊။")
# Marks that may follow the end of a sentence and close what it stands in.
_CLOSING = "」』”’）》】〉〕"
_ELLIPSIS = "……"
_END = re.compile(r"""(?:[.!?]+["'”’)\]]*(?=\s|$)|[。！？｡．…]+[」』”’）】]*|[؟۔।॥։።፧។៕။]+)""")


def ends_sentence(line: str) -> bool:
    """Whether a line, without spaces at its end, ends with a sentence.

    Chinese closing quotes and brackets after the end are looked through, and "……", Chinese for an ellipsis,
    is an end; "..." and a single "…" are not: they cut a text short.
    """
    line = line.rstrip(_CLOSING)
    return (line[-1:] in TERMINAL and not line.endswith("...")) or line.endswith(_ELLIPSIS)


def count_sentences(text: str) -> int:
    """How many sentences a line has, by its marks; a line without any is one."""
    return max(1, len(_END.findall(text)))
