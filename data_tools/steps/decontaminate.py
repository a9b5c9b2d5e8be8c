"""Drops documents that hold text of an evaluation set, or cuts that text out."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from data_tools.document import Document, Drop, Step
from data_tools.sections import Section
from megatrain.errors import require
from megatrain.settings import PathText

if TYPE_CHECKING:
    from data_tools.duplicates.contamination import Contamination

_DETAIL_CHARACTERS = 300


class Decontaminate(Section):
    """Brown et al. 2020 (GPT-3, arXiv:2005.14165), appendix C: no document may share an n-gram of 13 words
    with an evaluation set.

    Words are compared without case, width, accents and punctuation; digits count. In scripts without blanks
    half as many again characters stand for words: 20 for 13.
    """

    files: Annotated[tuple[PathText, ...], Field(min_length=1)]
    """Paths or patterns of .jsonl, .parquet and .txt files."""
    fields: tuple[str, ...] = ()
    """Which fields or columns hold text; none named: all."""
    ngram: Annotated[int, Field(ge=1, le=100)] = 13
    min_ngram: Annotated[int, Field(ge=1)] = 8
    """Shorter evaluation texts are not looked for."""
    action: Literal["drop", "cut"] = "drop"

    @model_validator(mode="after")
    def _in_order(self) -> "Decontaminate":
        if self.min_ngram > self.ngram:
            raise ValueError(f"min_ngram ({self.min_ngram}) must not be above ngram ({self.ngram})")
        return self

    def evaluation_sets(self) -> dict[str, list[Path]]:
        """The files by the name of their set. Raises UserError where there are none."""
        from data_tools.duplicates.evaluation import find_evaluation_sets

        return find_evaluation_sets(self.files)

    def load(self) -> "Contamination":
        """The n-grams of the sets. Raises UserError where a file cannot be read, or a set holds no text."""
        from data_tools.duplicates.contamination import Contamination
        from data_tools.duplicates.evaluation import read_evaluation_texts

        texts = {
            name: (text for path in paths for text in read_evaluation_texts(path, self.fields))
            for name, paths in self.evaluation_sets().items()
        }
        loaded = Contamination(texts, self.ngram, self.min_ngram)
        for name, count in loaded.texts.items():
            require(count, f"decontaminate.files: the evaluation set {name} holds no text; leave it out")
        return loaded

    def build(self) -> Step:
        """The step."""
        return partial(_drop if self.action == "drop" else _cut, self.load())


def _drop(contamination: "Contamination", document: Document) -> Document | Drop:
    hits = contamination.find(document.text)
    if not hits:
        return document
    start, end = hits[0].span
    return Drop(f"decontaminate.{hits[0].name}", document.text[start:end][:_DETAIL_CHARACTERS])


def _cut(contamination: "Contamination", document: Document) -> Document | Drop:
    from data_tools.duplicates.cutting import cut

    hits = contamination.find(document.text)
    if not hits:
        return document
    text = cut(document.text, [hit.span for hit in hits])
    if not text.strip():
        return Drop(f"decontaminate.{hits[0].name}", document.text.strip()[:_DETAIL_CHARACTERS])
    for hit in hits:
        document.counts[f"decontaminate.{hit.name}"] += 1
    document.text = text
    return document
