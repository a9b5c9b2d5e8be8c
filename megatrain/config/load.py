"""Reading a config: YAML text, overrides, and one-line errors that suggest the right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from megatrain.config.deepspeed import refusal
from megatrain.config.rules import check_rules
from megatrain.config.tree import FORMAT_VERSION, Config
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


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides, and check it.

    Raises UserError naming the key, the value and the mend.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        raise UserError(
            f"{path}: no such config" + (f"; did you mean {path.parent / near[0]}?" if near else "")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from None
    return parse_config(text, overrides, where=str(path))


def parse_config(text: str, overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Like `load_config`, from text."""
    try:
        tree = yaml.load(text, _Loader) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except (ValueError, TypeError) as error:  # a date that is none, a list as a key
        raise UserError(f"{where}: not valid YAML: {error}") from None
    require(isinstance(tree, dict), f"{where}: a config is a mapping of sections, not {type(tree).__name__}")
    version = tree.get("version", FORMAT_VERSION)
    require(
        not isinstance(version, int) or version <= FORMAT_VERSION,
        f"{where}: config version {version} is newer than this megatrain reads ({FORMAT_VERSION}); "
        "upgrade megatrain",
    )
    # A section whose keys are all commented out reads as null: it keeps its default values.
    tree = {name: section for name, section in tree.items() if section is not None}
    for override in overrides:
        _apply(tree, override)
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


def _explain(error: ValidationError) -> str:
    """The first error, in one line that names the key."""
    # A misspelt key is told before what is missing for it.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
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
    if first["type"] == "model_type":
        return f"{key} must be a section of keys, not {first['input']!r}{more}"
    return f"{key} ({first.get('input')!r}): {first['msg'].removeprefix('Value error, ')}{more}"


def _section_at(location: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = Config
    for name in location:
        if name.isdigit():
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
