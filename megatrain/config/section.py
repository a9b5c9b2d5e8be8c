"""What every section of a config is made of: its base and the kinds of numbers."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SWITCHES = ("true", "false", "yes", "no", "on", "off")
"""How a config writes what is true or false."""
EXACT = 2**53
"""Whole numbers up to here are exact as floats."""


def not_a_switch(value: object) -> object:
    """Raise ValueError for true and false in place of a number."""
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in SWITCHES):
        raise ValueError(f"a number is expected, not true or false ({str(value).lower()})")
    return value


def _real(value: object) -> object:
    """Read a number that is quoted, like '1e-4'."""
    if isinstance(not_a_switch(value), str):
        try:
            return float(str(value))
        except ValueError:
            return value
    return value


def _whole(value: object) -> object:
    """Read a whole number written with an exponent, like 2e4, or quoted."""
    if isinstance(not_a_switch(value), str):
        try:
            return int(str(value))
        except ValueError:
            value = _real(value)
    if isinstance(value, float) and EXACT < abs(value) < math.inf:
        raise ValueError(f"{value} is too large to be exact with an exponent; write all digits")
    return value


Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
PositiveReal = Annotated[Real, Field(gt=0)]
Whole = Annotated[int, BeforeValidator(_whole)]
PositiveInt = Annotated[Whole, Field(gt=0)]
Count = Annotated[Whole, Field(ge=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys; a number where text is expected is text as typed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=False,
        validate_default=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
    )
