"""What every section of a data preparation's config is: frozen, typed, and without unknown keys."""

import re
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
_SWITCHES = ("true", "false", "yes", "no", "on", "off")


def require_source_name(name: str) -> str:
    """The name of a source, which becomes that of files. Raises ValueError where it could not be one."""
    if not re.fullmatch(r"[^\s./\\\x00-\x1f][^/\\\x00-\x1f]{0,99}", name):
        raise ValueError(
            f"{name!r} cannot name a source: it becomes the name of files, so it has at most 100 characters, "
            "no / and no \\, and does not begin with a point or a blank"
        )
    return name


class Section(BaseModel):
    """A mapping in the YAML; its fields' defaults are what the documentation promises. A number where text is
    expected is text as typed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, values: Any) -> Any:
        """Raise ValueError for true and false in place of a number: pydantic reads true as 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            if str(value).lower() in _SWITCHES and name in cls.model_fields:
                kinds = {cls.model_fields[name].annotation, *get_args(cls.model_fields[name].annotation)}
                if kinds & {int, float} and bool not in kinds:
                    raise ValueError(f"{name}: a number is expected, not true or false ({value})")
        return values
