"""Settings as people write them: YAML, overrides on the command line, and what is wrong with a value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from megatrain.errors import UserError, require


class _Loader(yaml.SafeLoader):
    """YAML that reads `5e8` as a number wherever it stands, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value} stands here a second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in such numbers.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_settings(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with `section.key=value` overrides applied.

    Raises UserError for a file that is absent or no such YAML, and for an override of another form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        raise UserError(
            f"{path}: no such config" + (f"; did you mean {path.parent / near[0]}?" if near else "")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from None
    return parse_settings(text, overrides, where=str(path))


def parse_settings(text: str, overrides: Sequence[str] = (), *, where: str) -> dict[str, Any]:
    """Like `read_settings`, from text."""
    try:
        tree = yaml.load(text, _Loader) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        told = " ".join(str(getattr(error, "problem", error)).split())
        raise UserError(f"{where}{line}: not valid YAML: {told}") from None
    except (ValueError, TypeError, RecursionError) as error:  # a date that is none, a list as a key, too deep
        raise UserError(f"{where}: not valid YAML: {error}") from None
    require(isinstance(tree, dict), f"{where}: a config is a mapping of sections, not {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    return dict(tree)


def require_version(tree: dict[str, Any], newest: int, where: str) -> None:
    """Raise UserError for a config of a newer megatrain."""
    version = tree.get("version", newest)
    require(
        not isinstance(version, int) or version <= newest,
        f"{where}: config version {version} is newer than this megatrain reads ({newest}); upgrade megatrain",
    )


def first_of(error: ValidationError) -> ErrorDetails:
    """What is told of many errors: a misspelt key before what is missing for it."""
    return min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")


def complaint(error: ErrorDetails, key: str) -> str:
    """What is wrong with the value of a key, in the words of people."""
    if error["type"] == "missing":
        return f"{key} is missing; it must be given"
    if error["type"] == "value_error":
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    return f"{key} ({error['input']!r}) {_must(error)}"


def _must(error: ErrorDetails) -> str:
    limit = error.get("ctx", {})
    match error["type"]:
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return "must be a whole number"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "finite_number":
            return "must be a finite number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type":
            return "must be text"
        case "literal_error":
            return f"must be {limit['expected']}"
        case "greater_than":
            return f"must be above {limit['gt']:g}"
        case "greater_than_equal":
            return f"must be at least {limit['ge']:g}"
        case "less_than":
            return f"must be below {limit['lt']:g}"
        case "less_than_equal":
            return f"must be at most {limit['le']:g}"
        case "model_type" | "dict_type" | "mapping_type" | "model_attributes_type":
            return "must be a section of keys"
        case "string_too_short" if limit["min_length"] == 1:
            return "must not be empty"
        case "too_short" if limit["min_length"] == 1:
            return "must not be empty"
        case "tuple_type" | "list_type":
            return "must be a list, [like, this]"
        case _:
            return error["msg"].replace("Input should", "must").replace("String should", "must")


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    require(
        bool(equals and path.strip("-. ")),
        f"override {override!r} is not of the form section.key=value",
    )
    *sections, key = path.lstrip("-").split(".")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError):
        value = text
    at = tree
    for name in sections:
        if at.get(name) is None:
            at[name] = {}
        at = at[name]
        require(isinstance(at, dict), f"override {override!r}: {name} is not a section")
    at[key] = value
