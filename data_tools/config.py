"""The config of a data preparation: its frozen tree, its YAML, its overrides, its one-line errors."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from data_tools.document import StepSection
from data_tools.duplicates.settings import Duplicates as DuplicatesSearch
from data_tools.readers import Source
from data_tools.sections import Count, Fraction, Section, require_source_name
from data_tools.step_list import Steps
from data_tools.steps.clean import Clean
from data_tools.steps.length import Length
from data_tools.tokenizer.section import TokenizerTraining
from data_tools.upgrade import upgraded
from data_tools.where import ENGINES, Local, Where
from megatrain.errors import UserError, require
from megatrain.settings import PathText, complaint, first_of, read_settings, require_version

FORMAT_VERSION = 2


class SourceConfig(Source):
    """Where one source's documents are, and what is done to them."""

    steps: Steps | None = None
    """What its documents pass through, in this order; null: the steps of all sources."""
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """The share of its documents that is kept, chosen by the hash of their text."""


class Duplicates(DuplicatesSearch):
    """Which duplicates are removed, over all sources; of those the first source's is kept."""

    keep_tables: bool = True
    """Keep beside the shards what later sources are compared with (16 bytes a document, and 12 for each band
    and paragraph): without it none can be added."""


class Split(Section):
    """The share of documents that is held out, chosen by the hash of their text."""

    validation: Fraction = 0.01
    test: Fraction = 0.01

    @model_validator(mode="after")
    def _leaves_something(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test ({self.validation} + {self.test}) must be below 1")
        return self


class Shards(Section):
    """How large a shard grows."""

    max_tokens: Annotated[int, Field(gt=0)] = 100_000_000
    """A single document that is longer gets a shard of its own."""


class DataConfig(Section):
    """One preparation: raw files to token shards."""

    version: Literal[2] = 2
    output: PathText
    overwrite: bool = False
    """Replace an output that another config or other files made."""
    append: bool = False
    """Add the sources that the output lacks; what is there stays as it is."""
    where: Where = Local()
    """The result does not depend on it."""
    task_mib: Count = 0
    """Raw MiB that a task reads; 0: a 64th of a source, within 4 and 256. Parquet and uncompressed jsonl are
    cut, other files are not; the result does not depend on it."""
    memory_mib: Annotated[int, Field(gt=0)] = 2048
    """What a task of the search for duplicates may take; the result does not depend on it."""
    seed: int = 0
    """Of the shuffle of documents."""
    samples: Count = 20
    """How many of the documents dropped for each reason are kept for reading, for each source."""
    sources: Annotated[
        dict[Annotated[str, AfterValidator(require_source_name)], SourceConfig], Field(min_length=1)
    ]
    steps: Steps = (Clean(), Length())
    """What the documents of every source pass through, in this order."""
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
    tokenizer: TokenizerTraining = TokenizerTraining()
    shards: Shards = Shards()

    def deciding(self) -> dict[str, Any]:
        """What decides the output: all but where it goes and how it is computed."""
        return self.model_dump(
            mode="json",
            exclude={"output", "overwrite", "append", "where", "task_mib", "memory_mib", "samples"},
        )

    def steps_of(self, source: str) -> Sequence[StepSection]:
        """The list that a source's documents pass through."""
        own = self.sources[source].steps
        return self.steps if own is None else own


# What only the config of a run has at its top.
_RUN = {"run", "model", "train"}
# Mappings whose keys are names or depend on each other: an override may replace one by another.
_REPLACEABLE = ("sources", "weights", "metadata", "where")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> DataConfig:
    """Read a YAML file and apply `section.key=value` overrides. Raises UserError naming key and mend."""
    tree = read_settings(Path(path), overrides, replaceable=_REPLACEABLE)
    foreign = ", ".join(sorted(_RUN & set(tree)))
    require(not foreign, f"{path}: the config of a run, not one for `megatrain prepare`: it has {foreign}")
    tree = upgraded(tree)
    require_version(tree, FORMAT_VERSION, str(path))
    try:
        return DataConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    first = first_of(error)
    location = [part for part in first["loc"] if part != "[key]"]
    if location[:1] == ["where"]:
        del location[1:2]  # the name of the engine, which is no key
    where = ".".join(map(str, location))
    match first["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), _known_keys(first["loc"][:-1]), n=1)
            return f"unknown key {where}" + (f"; did you mean {near[0]}?" if near else "")
        case "union_tag_invalid":
            return f"{where}: no engine is called {first['ctx']['tag']}; known: {', '.join(ENGINES)}"
        case _:
            return complaint(first, where or "config")


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The keys of the section at a location in the tree; a source's name counts as any."""
    if location[:1] == ("where",):
        return list(ENGINES[str(location[1])].model_fields)
    model: type[BaseModel] = DataConfig
    skip = False
    for part in location:
        if skip:
            skip = False
            continue
        annotation = model.model_fields[str(part)].annotation
        if typing.get_origin(annotation) in (dict, Mapping):
            annotation, skip = typing.get_args(annotation)[1], True
        models = [one for one in (annotation, *typing.get_args(annotation)) if isinstance(one, type)]
        model = next(one for one in models if issubclass(one, BaseModel))  # of `Near | None` the first
    return list(model.model_fields)
