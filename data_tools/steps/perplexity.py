"""Drops or marks documents that a language model of good text finds strange."""

from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from data_tools.document import Document, Drop, Step
from data_tools.ngram_model import NgramModel, load_model, model_words
from data_tools.sections import Section
from megatrain.settings import PathText

Percent = Annotated[float, Field(ge=0, le=100)]


class Perplexity(Section):
    """By a model of n-grams (data_tools.train_ngram_model); the metadata gets "perplexity" and "part".

    "part" is "head", "middle" or "tail", as in CCNet (Wenzek et al. 2019, arXiv:1911.00359), which cut at the
    thirds. Percentiles are of the texts that the model was calibrated with. One model is good for one
    language: `languages` names those that are judged ("language" in the metadata), others go on as they are.
    """

    model: PathText
    languages: tuple[str, ...] = ()
    """Empty: all."""
    max_perplexity: Annotated[float, Field(gt=0)] | None = None
    max_percentile: Percent | None = None
    head_below: Percent = 33.3
    tail_from: Percent = 66.7

    @model_validator(mode="after")
    def _in_order(self) -> "Perplexity":
        if self.head_below > self.tail_from:
            raise ValueError(f"head_below ({self.head_below}) is above tail_from ({self.tail_from})")
        return self

    def build(self) -> Step:
        """The step. Raises UserError where the model cannot be read."""
        return partial(_step, self, load_model(Path(self.model)))


def _step(rules: Perplexity, model: NgramModel, document: Document) -> Document | Drop:
    if rules.languages and document.metadata.get("language") not in rules.languages:
        return document
    words = model_words(document.text)
    if not len(words):
        return Drop("perplexity.no_words")
    perplexity = model.perplexity(words)
    percentile = model.percentile(perplexity)
    found = f"perplexity {perplexity:.0f}, percentile {percentile:.0f}"
    if rules.max_perplexity is not None and perplexity > rules.max_perplexity:
        return Drop("perplexity.too_high", found)
    if rules.max_percentile is not None and percentile > rules.max_percentile:
        return Drop("perplexity.percentile_too_high", found)
    document.metadata["perplexity"] = round(perplexity, 2)
    document.metadata["part"] = (
        "head" if percentile < rules.head_below else "middle" if percentile < rules.tail_from else "tail"
    )
    return document
