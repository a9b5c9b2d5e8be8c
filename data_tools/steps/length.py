"""The length that a document must have."""

from data_tools.document import Document, Drop, Step
from data_tools.sections import Section


class LengthStep(Section):
    """Documents of this many characters are kept."""

    min_characters: int = 1
    max_characters: int = 10_000_000

    def build(self) -> Step:
        def step(document: Document) -> Document | Drop:
            if not document.text.strip():
                return Drop("length.empty")
            if len(document.text) < self.min_characters:
                return Drop("length.too_short", f"{len(document.text)} characters")
            if len(document.text) > self.max_characters:
                return Drop("length.too_long", f"{len(document.text)} characters")
            return document

        return step
