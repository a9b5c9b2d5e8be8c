"""The steps that a document may take, by the names that a config gives them."""

from collections.abc import Mapping
from types import MappingProxyType

from data_tools.sections import Section
from data_tools.steps.bad_words import BadWords
from data_tools.steps.boilerplate import Boilerplate
from data_tools.steps.c4_quality import C4Quality
from data_tools.steps.clean import Clean
from data_tools.steps.decontaminate import Decontaminate
from data_tools.steps.extract import Extract
from data_tools.steps.fineweb_quality import FinewebQuality
from data_tools.steps.gopher_quality import GopherQuality
from data_tools.steps.gopher_repetition import GopherRepetition
from data_tools.steps.language import Language
from data_tools.steps.length import Length
from data_tools.steps.perplexity import Perplexity
from data_tools.steps.pii import Pii

STEPS: Mapping[str, type[Section]] = MappingProxyType(
    {
        "extract": Extract,
        "clean": Clean,
        "length": Length,
        "language": Language,
        "boilerplate": Boilerplate,
        "gopher_repetition": GopherRepetition,
        "gopher_quality": GopherQuality,
        "c4_quality": C4Quality,
        "fineweb_quality": FinewebQuality,
        "bad_words": BadWords,
        "perplexity": Perplexity,
        "pii": Pii,
        "decontaminate": Decontaminate,
    }
)
