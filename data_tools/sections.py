"""What every section of a data preparation's config is: frozen, typed, and without unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A mapping in the YAML; its fields' defaults are what the documentation promises."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
