"""A config file read, and the overrides of the command line applied to it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from megatrain.errors import UserError, require
from megatrain.records import read_file
from megatrain.settings.notation import MAX_BYTES, construct, parse_node, parse_yaml


def read_settings(
    path: Path, overrides: Sequence[str] = (), *, replaceable: Collection[str] = ()
) -> dict[str, Any]:
    """Return the mapping in a YAML file, with `section.key=value` overrides applied.

    replaceable: names of keys whose mapping an override may replace by another.
    Raises UserError for a file that is absent or no such YAML, and for an override of another form.
    """
    try:
        text = read_file(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        raise UserError(
            f"{path}: no such config" + (f"; did you mean {path.parent / near[0]}?" if near else "")
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read as a config: not utf-8 text ({error.reason} at byte {error.start})"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"{path}: cannot be read as a config: {why}") from None
    return parse_settings(text, overrides, where=str(path), replaceable=replaceable)


def parse_settings(
    text: str, overrides: Sequence[str] = (), *, where: str, replaceable: Collection[str] = ()
) -> dict[str, Any]:
    """Like `read_settings`, from text."""
    try:
        tree = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}{_problem(error)}") from None
    tree = {} if tree is None else tree
    require(isinstance(tree, dict), f"{where}: a config is a mapping of sections, not {_kind(tree)}")
    for override in overrides:
        _apply(tree, override, replaceable)
    return dict(tree)


def require_version(tree: dict[str, Any], newest: int, where: str) -> None:
    """Raise UserError for a config of a newer megatrain."""
    version = tree.get("version", newest)
    require(
        not isinstance(version, int) or version <= newest,
        f"{where}: config version {version} is newer than this megatrain reads ({newest}); upgrade megatrain",
    )


def _apply(tree: dict[str, Any], override: str, replaceable: Collection[str]) -> None:
    path, equals, text = override.partition("=")
    require(
        bool(equals and path.strip("-. ")),
        f"override {_shown(override)} is not of the form section.key=value",
    )
    *sections, key = path.lstrip("-").split(".")
    value = _value(override, text)
    at = tree
    for name in sections:
        if at.get(name) is None:
            at[name] = {}
        at = at[name]
        require(isinstance(at, dict), f"override {_shown(override)}: {name} is not a section")
    old = at.get(key)
    if isinstance(old, dict) and key not in replaceable:
        off = value is None and bool(text.strip()) and bool(sections)  # `duplicates.near=null`
        kept = value.keys() if isinstance(value, dict) else old.keys() if off else ()
        lost = [f"{path.lstrip('-')}.{name}" for name in old if name not in kept]
        told = f"{', '.join(lost[:5])}{' ...' if lost[5:] else ''}"
        require(
            not lost,
            f"override {_shown(override)} would drop {told}, which the config sets; override single keys, "
            f"like {''.join(lost[:1])}=value",
        )
    at[key] = value


def _value(override: str, text: str) -> Any:
    """Return the value of an override. Raises UserError for what is not YAML, or not all of the text."""
    try:
        node = parse_node(text)
        value = None if node is None else construct(node)
    except yaml.YAMLError as error:
        raise UserError(f"override {_shown(override)}{_problem(error, line=False)}; {_QUOTE}") from None
    plain = isinstance(node, yaml.ScalarNode) and node.style not in ("'", '"')
    require(
        not plain or (isinstance(node, yaml.ScalarNode) and node.value == text.strip()),
        f"override {_shown(override)}: YAML reads only a part of the value; {_QUOTE}",
    )
    require(node is not None or not text.strip(), f"override {_shown(override)}: holds no value; {_QUOTE}")
    return value


_QUOTE = """to mean text, quote it twice: 'key="text"'"""


def _problem(error: yaml.YAMLError, *, line: bool = True) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark is not None and line else ""
    column = f" (column {mark.column + 1})" if mark is not None and not line else ""
    told = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"{place}: not valid YAML: {told}{column}"


def _kind(tree: Any) -> str:
    return "a list" if isinstance(tree, list) else "a single value"


def _shown(override: str) -> str:
    return repr(override if len(override) <= 100 else f"{override[:100]}...")
