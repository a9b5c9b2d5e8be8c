"""The steps that a document passes through, by the names that a config gives them."""

from collections.abc import Mapping

from data_tools.sections import Section
from data_tools.steps.clean import CleanStep
from data_tools.steps.decontaminate import Decontaminate
from data_tools.steps.length import LengthStep

STEPS: Mapping[str, type[Section]] = {
    "clean": CleanStep,
    "length": LengthStep,
    "decontaminate": Decontaminate,
}
