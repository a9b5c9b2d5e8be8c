"""Where sentences end, in Latin, Chinese and other scripts."""

import re

# The marks that end a sentence in any script (Unicode's property Sentence_Terminal, without those that are
# commas too): Latin; Chinese and Japanese; Arabic, Syriac, N'Ko; Indic; Tibetan; Burmese, Khmer, Cham;
# Ethiopic; Armenian; Mongolian; Balinese, Javanese; Ol Chiki, Meetei Mayek; Canadian; Lisu, Vai.
_OF_SCRIPTS = "؟۔؞܀܁܂߹।॥།༎༏༐༑။៕។꩝꩞꩟።፧፨։᠃᠉᭚᭛᭞᭟꧈꧉᱾᱿꫰꫱꯫᙮꓿꘎꘏"
TERMINAL = frozenset(".!?‼‽⁇⁈⁉⸮。！？｡．﹒﹖﹗၊" + _OF_SCRIPTS)
# Scripts that end a sentence with a space or a new line alone: Thai, Lao.
_NO_MARKS = re.compile("[\u0e00-\u0eff]")
# Marks that may follow the end of a sentence and close what it stands in.
_CLOSING = "」』”’）》】〉〕»“"
_CLOSING_OR_SPACE = _CLOSING + " \xa0\u202f"  # "« Fini. »"
_ELLIPSIS = "……"
_SAMPLE = 2000
# Marks that end a sentence: those of the group always, Latin ones before a space or the text's end.
_END = re.compile(r"""[.!?]+["'”’)\]]*|([。！？｡．…""" + _OF_SCRIPTS + "]+[」』”’）】]*)")


def ends_sentence(line: str) -> bool:
    """Whether a line, without spaces at its end, ends as a sentence does.

    Chinese closing quotes and brackets after the mark are looked through, and "……", Chinese for an ellipsis,
    is one.
    """
    return line.rstrip(_CLOSING_OR_SPACE)[-1:] in TERMINAL or line.endswith(_ELLIPSIS)


def count_sentences(text: str) -> int:
    """How many sentences a line has, by its marks; a line without any is one."""
    ends = sum(
        match[1] is not None or match.end() == len(text) or text[match.end()].isspace()
        for match in _END.finditer(text)
    )
    return max(1, ends)


def marks_no_ends(text: str) -> bool:
    """Whether most letters of a text are of a script without marks for the end of a sentence."""
    sample = text[:_SAMPLE]
    return 2 * len(_NO_MARKS.findall(sample)) > sum(map(str.isalpha, sample))
