"""The config sections of duplicates: which kinds are looked for, and what counts as one."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from data_tools.duplicates.folding import Numbers
from data_tools.duplicates.units import Unit
from data_tools.sections import Section

# FineWeb: Penedo et al., 2024. RefinedWeb: Penedo et al., 2023, appendix G, after Lee et al., 2022.
# DCLM: Li et al., 2024.
_PRESETS: Final[dict[str, dict[str, int]]] = {
    "fineweb": {},  # The fields' own defaults.
    "refinedweb": {"bands": 450, "rows": 20},
    "dclm": {"bands": 93, "rows": 15},
}


class Near(Section):
    """Near duplicates by MinHash: documents with Jaccard index s of their n-grams are found with probability
    1 - (1 - s**rows)**bands."""

    preset: Literal["fineweb", "refinedweb", "dclm"] = "fineweb"
    """A paper's n-grams, bands and rows."""
    ngram: Annotated[int, Field(ge=1, le=100)] = 5
    """Units in a row."""
    bands: Annotated[int, Field(ge=1, le=10_000)] = 14
    rows: Annotated[int, Field(ge=1, le=1_000)] = 8
    """Hashes in a band."""
    bits: Literal[32, 64] = 64
    """Of a hash; 32 is faster."""
    unit: Unit = "words"
    """Words are single characters in Chinese, Japanese, Thai, ..."""
    numbers: Numbers = "same"
    """Whether texts that differ only in their digits are the same."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**_PRESETS.get(str(given.get("preset", "fineweb")), {}), **given}

    def probability(self, similarity: float) -> float:
        """That two documents of a Jaccard index share a band (Leskovec et al., 2020, section 3.4.2)."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


class Paragraphs(Section):
    """Repeated paragraphs, which are lines: all but the earliest are cut out of their documents."""

    min_units: Annotated[int, Field(ge=1)] = 10
    """Shorter ones, such as headings and menus, are left alone."""
    numbers: Numbers = "same"


class Substrings(Section):
    """Repeated runs of words: all but the earliest are cut out of their documents.

    What two documents have in common is found where it is `length` units or longer, but for less than half of
    that at each of its ends, which may stay; half of it and less is never cut.
    """

    length: Annotated[int, Field(ge=10, le=10_000)] = 100
    numbers: Numbers = "distinct"


class Duplicates(Section):
    """Which duplicates are removed, and which repeated parts of documents cut out; null: not looked for."""

    exact: bool = True
    """Documents with the same text."""
    near: Near | None = None
    paragraphs: Paragraphs | None = None
    substrings: Substrings | None = None
