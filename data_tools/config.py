"""The config of a data preparation: its frozen tree, its YAML, its overrides, its one-line errors."""

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from megatrain.errors import UserError, require

FORMAT_VERSION = 1
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Source(_Section):
    """Where one source's documents are."""

    files: Annotated[
        tuple[str, ...], Field(min_length=1)
    ]  # Paths, globs or folders, from the working directory.
    text_column: str = "text"  # The field of a JSON line that holds the text.
    document_separator: str | None = (
        None  # For .txt: what stands between documents; null: a file is a document.
    )


class Clean(_Section):
    """What is done to the characters of a document."""

    fix_encoding: bool = False  # Mend text that was decoded wrongly (mojibake), by ftfy.
    invalid_utf8: Literal["replace", "skip"] = (
        "replace"  # Bytes that are no UTF-8: U+FFFD, or drop the document.
    )


class Filter(_Section):
    """Which documents are kept."""

    min_characters: Annotated[int, Field(ge=1)] = 1
    max_characters: Annotated[int, Field(ge=1)] = 10_000_000


class Split(_Section):
    """The share of documents that is held out, chosen by the hash of their text."""

    validation: Fraction = 0.01
    test: Fraction = 0.01

    @model_validator(mode="after")
    def _leaves_something(self) -> "Split":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test ({self.validation} + {self.test}) must be below 1")
        return self


class TokenizerTraining(_Section):
    """The tokenizer: an existing sentencepiece model, or how to train one on the train split."""

    model: str | None = None  # A sentencepiece model file to use; null: train one.
    vocab_size: Annotated[int, Field(ge=300, le=2**31 - 1)] = 32_000
    character_coverage: Annotated[float, Field(gt=0.9, le=1.0)] = 0.9995  # The rest becomes bytes.
    training_bytes: Annotated[int, Field(gt=0)] = 200_000_000  # How much text at most it is trained on.


class Shards(_Section):
    """How large a shard grows."""

    max_tokens: Annotated[int, Field(gt=0)] = 100_000_000


class DataConfig(_Section):
    """One preparation: raw files to token shards."""

    version: Literal[1] = 1
    output: str
    overwrite: bool = False  # Replace an output that another config or other files made.
    workers: Annotated[int, Field(ge=0)] = 0  # Processes; 0: one a core. The result does not depend on it.
    seed: int = 0  # Of the shuffle of documents.
    sources: Annotated[dict[str, Source], Field(min_length=1)]
    clean: Clean = Clean()
    filter: Filter = Filter()
    deduplicate: Literal["exact", "none"] = "exact"
    split: Split = Split()
    tokenizer: TokenizerTraining = TokenizerTraining()
    shards: Shards = Shards()

    def deciding(self) -> dict[str, Any]:
        """What decides the output: all but where it goes and how it is computed."""
        return self.model_dump(mode="json", exclude={"output", "overwrite", "workers"})


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> DataConfig:
    """Read a YAML file and apply `section.key=value` overrides. Raises UserError naming key and mend."""
    path = Path(path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    require(isinstance(tree, dict), f"{path}: a config is a mapping of sections")
    for override in overrides:
        _apply(tree, override)
    version = tree.get("version", FORMAT_VERSION)
    require(
        not isinstance(version, int) or version <= FORMAT_VERSION,
        f"{path}: config version {version} is newer than this megatrain reads "
        f"({FORMAT_VERSION}); upgrade megatrain",
    )
    try:
        return DataConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as text; this reads it as the number it is."""


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    require(equals and path, f"override {override!r} is not of the form section.key=value")
    *sections, key = path.split(".")
    at: Any = tree
    for section in sections:
        at = at.setdefault(section, {})
        require(isinstance(at, dict), f"override {override!r}: {section} is not a section")
    try:
        at[key] = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError):
        at[key] = text


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(first["loc"][:-1]), n=1)
            return f"unknown key {where}" + (f"; did you mean {near[0]}?" if near else "")
        case "missing":
            return f"{where} is missing; it must be given"
        case _:
            message = first["msg"].removeprefix("Value error, ")
            return f"{where or 'config'}: {message} (given: {first['input']!r})"


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The keys of the section at a location in the tree; a source's name counts as any."""
    model: type[BaseModel] = DataConfig
    skip = False
    for part in location:
        if skip:
            skip = False
            continue
        annotation = model.model_fields[str(part)].annotation
        if typing.get_origin(annotation) in (dict, Mapping):
            annotation, skip = typing.get_args(annotation)[1], True
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
