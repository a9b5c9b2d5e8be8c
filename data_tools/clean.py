"""The cleaning of one text and the reasons for which a document is dropped, as config version 1 has them."""

from data_tools.config import Clean, Filter
from data_tools.steps.clean import clean_text
from data_tools.steps.length import fault_of_length


def clean(text: str, config: Clean) -> str:
    """The cleaned text, as data_tools.steps.clean makes it."""
    return clean_text(text, fix_encoding=config.fix_encoding)


def drop_reason(text: str, config: Filter) -> str | None:
    """Why a cleaned text is not kept, or None."""
    return fault_of_length(text, config.min_characters, config.max_characters)
