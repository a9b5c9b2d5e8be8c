"""The page docs/configuration.md, made from the tree and its rules."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel
from pydantic_core import PydanticUndefined

from megatrain.config import deepspeed, tree
from megatrain.config.deepspeed import OWNED, UNSUPPORTED
from megatrain.config.load import model_in
from megatrain.config.section import Section
from megatrain.settings import expanded

HEAD = """\
# Configuration

Every key, its type, its default and what it means. This page is made from `megatrain/config/tree.py`
(`python -m megatrain.config.reference > docs/configuration.md`); a test compares them.

A config is a YAML file of the sections below. A section or key that is left out has its default. On the
command line `section.key=value` overrides a key, e.g. `schedule.learning_rate=1e-4`,
`model.rope.llama3.factor=32` or `data.sources='[{path: data/web, name: web, weight: 2}]'`. Unknown keys, keys
that stand twice and values that break a rule are errors before a process starts; so is an override of a
section, like `train=` or `train='{steps: 5}'`, that would drop keys which the file sets. The resolved config
is stored in the run's folder as `config.yaml`.

Values are read by the core schema of YAML 1.2, and the key's type decides: `010` is 10, `0x10` is 16,
`1_000` is 1000, `1e5` is a number; `1:30`, `2026-12-01` and `0b1` are text and refused for a number. `yes`,
`no`, `on` and `off` are true or false where a key is, else text. A key of text gets what was typed:
`run.folder=20251201`, `run.name=1e5`. A config has at most 1 MiB and 50 levels; tags like `!!python/name` are
refused.

In a `path`, here and in the config of `megatrain prepare`, and in every path argument of the command line, a
leading `~` or `~user`, `$NAME` and `${NAME}` are expanded when the config is read. A variable that is not set
or empty is an error. A `~` that is not at the start and a `$` before something that is no name stay as they
are; a name that begins with `~` is written `./~name`; a `$` before a name is always a variable. In URLs
variables alone are expanded, and none may add a password: `config.yaml` stores the expanded value, so that
the run is the same for another user and on another host. Each host expands for itself: with a hostfile,
variables that are not forwarded (docs/operations.md) must be set there too.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_sections(), *_deepspeed()])


def keys() -> list[str]:
    """All keys of the tree, dotted; those of a source stand under `data.sources`."""
    return [path for path, *_ in _rows(tree.Config, "")]


def _sections() -> Iterator[str]:
    yield "| key | type | default | meaning |\n|---|---|---|---|\n| `version` | 1 | 1 | Of this format. |\n"
    for name, field in tree.Config.model_fields.items():
        section = model_in(field.annotation)
        if section is None:
            continue
        about = inspect.cleandoc(section.__doc__ or "") if section.__doc__ != Section.__doc__ else ""
        yield f"## {name}\n" + (f"\n{about}\n" if about else "")
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        for path, kind, default, meaning in _rows(section, f"{name}."):
            yield f"| `{path}` | {kind} | {default} | {meaning} |"
        yield ""


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and meaning of each key, depth first."""
    meanings = _docstrings()[section.__name__]
    for name, field in section.model_fields.items():
        inner = model_in(field.annotation)
        if inner is None or field.default is None or field.default == ():
            default = "required" if field.default is PydanticUndefined else _value(field.default)
            if field.default_factory is not None:
                default = "empty"
            kind = _bounded("path" if is_path(field.metadata) else _kind(field.annotation), field.metadata)
            yield prefix + name, kind, default, meanings.get(name, "")
        if inner is not None:
            yield from _rows(inner, f"{prefix}{name}.")


def _docstrings() -> dict[str, dict[str, str]]:
    """Section → key → the string below the key."""
    found: dict[str, dict[str, str]] = {}
    for node in [node for module in (tree, deepspeed) for node in ast.parse(inspect.getsource(module)).body]:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        for key, below in zip(node.body, node.body[1:], strict=False):
            match key, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return found


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return _bounded("path" if is_path(inner[1:]) else _kind(inner[0]), inner[1:])
    if origin is tuple:
        return "list of sections" if model_in(inner[0]) else f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"{_kind(inner[1])} for each name"
    if inner:  # a union
        return " or ".join(_kind(part) for part in inner)
    names = {float: "number", int: "whole number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(annotation, "section")


def is_path(metadata: Iterable[object]) -> bool:
    """Return whether an annotation's metadata are those of a path."""
    return any(isinstance(one, AfterValidator) and one.func is expanded for one in metadata)


def _bounded(kind: str, metadata: Iterable[object]) -> str:
    """With the limits that an annotation states, e.g. `number > 0`."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    parts = [part for item in metadata for part in getattr(item, "metadata", [item])]
    limits = [
        f" {sign} {getattr(part, name)}"
        for part in parts
        for name, sign in signs.items()
        if getattr(part, name, None) is not None
    ]
    return kind + " and".join(limits)


def _value(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return f"{value}"


def _deepspeed() -> Iterator[str]:
    yield "Owned by megatrain, and refused there:\n\n| DeepSpeed's key | set instead |\n|---|---|"
    yield from (f"| `{key}` | {ours} |" for key, ours in OWNED.items())
    yield "\nNot to be set:\n\n| DeepSpeed's key | why |\n|---|---|"
    yield from (f"| `{key}` | {why} |" for key, why in UNSUPPORTED.items())
    yield ""


if __name__ == "__main__":
    sys.stdout.write(reference())
