"""Reading a config: YAML text, overrides, and one-line errors that suggest the right name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from megatrain.config.deepspeed import refusal
from megatrain.config.rules import check_rules
from megatrain.config.tree import FORMAT_VERSION, Config
from megatrain.errors import UserError, require
from megatrain.settings import complaint, first_of, parse_settings, read_settings, require_version

# What only the config of a data preparation has at its top.
_DATA = {"output", "sources", "steps"}


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides, and check it.

    Raises UserError naming the key, the value and the mend.
    """
    return _checked(read_settings(Path(path), overrides), str(path))


def parse_config(text: str, overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Like `load_config`, from text."""
    return _checked(parse_settings(text, overrides, where=where), where)


def _checked(tree: dict[str, Any], where: str) -> Config:
    foreign = ", ".join(sorted(_DATA & set(tree)))
    require(
        not foreign, f"{where}: not the config of a run, but one for `megatrain prepare`: it has {foreign}"
    )
    require_version(tree, FORMAT_VERSION, where)
    # A section whose keys are all commented out reads as null: it keeps its default values.
    tree = {name: section for name, section in tree.items() if section is not None}
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from None
    try:
        check_rules(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return config


def to_yaml(config: BaseModel, comments: Mapping[str, object] | None = None) -> str:
    """The resolved config as YAML, with derived values as comments at the top."""
    head = "".join(f"# {name}: {value}\n" for name, value in (comments or {}).items())
    return head + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError) -> str:
    """The first error, in one line that names the key."""
    first = first_of(error)
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        reason = refusal(location)
        if reason is not None:
            return reason + more
        here = [
            ".".join([*location[:-1], near])
            for cutoff in (0.85, 0.5)
            for near in difflib.get_close_matches(location[-1], _names_at(location[:-1]), n=1, cutoff=cutoff)
        ]
        # A slip of the hand, the right name in another section, something like it.
        slip = here[:1] if len(here) > 1 else []
        suggestion = next(iter([*slip, *_paths_named(location[-1]), *here]), None)
        hint = f"did you mean {suggestion}?" if suggestion else ""
        names = f"known keys: {', '.join(_names_at(location[:-1]))}"
        return f"unknown key {key}; {hint or names}{more}"
    return complaint(first, key) + more


def _section_at(location: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = Config
    for name in location:
        if name.isascii() and name.isdigit():
            continue
        field = model.model_fields.get(name)
        inner = model_in(field.annotation) if field is not None else None
        if inner is None:
            return None
        model = inner
    return model


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key's type holds, also within a tuple or an optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = model_in(inner)
        if found is not None:
            return found
    return None


def _names_at(location: Sequence[str]) -> list[str]:
    section = _section_at(location)
    return list(section.model_fields) if section is not None else []


def _paths_named(key: str, section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Full paths of a key that stands in another section."""
    paths = []
    for name, field in section.model_fields.items():
        inner = model_in(field.annotation)
        if name == key:
            paths.append(prefix + name)
        if inner is not None:
            paths.extend(_paths_named(key, inner, f"{prefix}{name}."))
    return paths
