"""Drops documents that are empty, too short or too long."""

from functools import partial
from typing import Annotated

from pydantic import Field, model_validator

from data_tools.document import Document, Drop, Step
from data_tools.sections import Section


class Length(Section):
    """How many characters a kept document has at least and at most; spaces alone are none."""

    min_characters: Annotated[int, Field(ge=1)] = 1
    max_characters: Annotated[int, Field(ge=1)] = 10_000_000

    @model_validator(mode="after")
    def _in_order(self) -> "Length":
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters ({self.min_characters}) is above max_characters ({self.max_characters})"
            )
        return self

    def build(self) -> Step:
        """The step."""
        return partial(_step, self)


def _step(limits: Length, document: Document) -> Document | Drop:
    fault = fault_of_length(document.text, limits.min_characters, limits.max_characters)
    return Drop(f"length.{fault}", f"{len(document.text)} characters") if fault else document


def fault_of_length(text: str, least: int, most: int) -> str | None:
    """ "empty", "too_short", "too_long", or None."""
    if not text or text.isspace():
        return "empty"
    if len(text) < least:
        return "too_short"
    if len(text) > most:
        return "too_long"
    return None
