"""YAML as configs use it: the core schema of YAML 1.2, within limits, with every scalar's text as typed.

PyYAML reads YAML 1.1, where `010` is 8, `1:30` is 90, `no` is false and `1e5` is text. Here the notation
decides: `010` is 10, `1:30` and `2026-12-01` are text, and a number keeps the text it was typed as, which is
what a key of text gets. True and false stay text, which keys of type bool read.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, TypeAlias

import yaml

MAX_BYTES = 1 << 20
"""Size of a config; PyYAML reads about 100 KiB/s."""
MAX_DEPTH = 50
MAX_REPEATED = 100_000
"""Values that aliases may add to those that are written down."""
_INT, _FLOAT, _NULL, _STR = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "null", "str"))
_SEQ, _MAP, _MERGE, _BOOL = (f"tag:yaml.org,2002:{name}" for name in ("seq", "map", "merge", "bool"))
_RESOLVERS = (
    (_NULL, r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_INT, r"(?:[-+]?[0-9]+(?:_[0-9]+)*|0x[0-9a-fA-F]+|0o[0-7]+)$", list("-+0123456789")),
    (
        _FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
    (_MERGE, r"<<$", ["<"]),
)


class TypedInt(int):
    """A whole number that prints as it was typed."""

    typed: str

    def __repr__(self) -> str:
        return self.typed

    __str__ = __repr__


class TypedFloat(float):
    """A number that prints as it was typed."""

    typed: str

    def __repr__(self) -> str:
        return self.typed

    __str__ = __repr__


def parse_yaml(text: str) -> Any:
    """Return the value of one YAML document: dicts, lists, text, numbers and None.

    Raises yaml.YAMLError for anything else, also for what is too deep, repeats too much or refers to itself.
    """
    node = parse_node(text)
    return None if node is None else construct(node)


def parse_node(text: str) -> yaml.Node | None:
    """Return the root node of a document, None for an empty one. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def construct(node: yaml.Node) -> Any:
    """Return the value of a root node. Raises yaml.YAMLError."""
    _require_bounded(node)
    return _Loader("").construct_document(node)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]
    yaml_constructors: ClassVar[dict[Any, Any]] = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for position, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode):
                raise _problem(key, "a key must be text, not a list or a mapping")
            if key.value in seen:
                raise _problem(key, f"the key {key.value} stands here a second time")
            seen.add(key.value)
            if key.tag != _MERGE:  # a key is text: `no` and `2024` are names
                node.value[position] = (
                    yaml.ScalarNode(_STR, key.value, key.start_mark, key.end_mark, key.style),
                    value,
                )
        return super().construct_mapping(node, deep)


def _problem(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> TypedInt:
    text = node.value
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    try:
        number = TypedInt(text, base)
    except ValueError:
        raise _problem(node, f"{_short(text)} cannot be read as a whole number") from None
    number.typed = text
    return number


def _number(loader: _Loader, node: yaml.ScalarNode) -> TypedFloat:
    text = node.value
    try:
        number = TypedFloat(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    except ValueError:
        raise _problem(node, f"{_short(text)} cannot be read as a number") from None
    number.typed = text
    return number


def _refused(loader: _Loader, node: yaml.Node) -> Any:
    raise _problem(node, f"the tag {_short(node.tag)} is not allowed")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


_Constructors: TypeAlias = "dict[str | None, Any]"
_CONSTRUCTORS: _Constructors = {
    _NULL: lambda loader, node: None,
    _INT: _whole_number,
    _FLOAT: _number,
    _STR: yaml.SafeLoader.construct_yaml_str,
    _BOOL: yaml.SafeLoader.construct_yaml_str,  # `!!bool yes`; a bare `yes` is text at once
    _SEQ: yaml.SafeLoader.construct_yaml_seq,
    _MAP: yaml.SafeLoader.construct_yaml_map,
    None: _refused,
}
for _tag, _constructor in _CONSTRUCTORS.items():
    _Loader.add_constructor(_tag, _constructor)
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def _require_bounded(root: yaml.Node) -> None:
    """Raise yaml.YAMLError where aliases refer to what holds them, or multiply values without end."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node) -> int:
        key = id(node)
        if key in open_:
            raise _problem(node, "an anchor here contains an alias to itself")
        if key not in sizes:
            open_.add(key)
            sizes[key] = 1 + sum(map(size, _children(node)))
            open_.discard(key)
        return sizes[key]

    if size(root) > len(sizes) + MAX_REPEATED:
        raise _problem(root, f"aliases repeat more than {MAX_REPEATED:,} values")


def _children(node: yaml.Node) -> list[yaml.Node]:
    match node:
        case yaml.SequenceNode():
            return list(node.value)
        case yaml.MappingNode():
            return [one for pair in node.value for one in pair]
    return []
