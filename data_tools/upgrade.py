"""Configs of older versions, rewritten as the present one says the same."""

from collections.abc import Mapping
from typing import Any

from megatrain.errors import require

Tree = dict[str, Any]


def upgraded(tree: Tree) -> Tree:
    """The tree of a config of any version as one of the newest; what it cannot read it leaves for the
    check."""
    version = tree.get("version", 1 if _looks_old(tree) else None)
    return _from_1(tree) if version == 1 else tree


def _looks_old(tree: Tree) -> bool:
    return any(key in tree for key in ("workers", "clean", "filter", "deduplicate"))


def _from_1(tree: Tree) -> Tree:
    """Version 1 had one cleaning and one filter for all sources, and no engine but this machine."""
    newer = [key for key in ("steps", "duplicates", "where") if key in tree]
    require(
        not newer, f"config version 1 has no {' and no '.join(newer)}: write `version: 2`, or leave them out"
    )
    old = dict(tree)
    clean, limits = dict(_mapping(old.pop("clean", {}))), dict(_mapping(old.pop("filter", {})))
    invalid = clean.pop("invalid_utf8", None)
    new: Tree = {**old, "version": 2, "steps": [{"clean": clean}, {"length": limits}]}
    if "workers" in new:
        new["where"] = {"engine": "local", "workers": new.pop("workers")}
    if "deduplicate" in new:
        new["duplicates"] = {"exact": new.pop("deduplicate") != "none"}
    if invalid is not None and isinstance(new.get("sources"), dict):
        new["sources"] = {
            name: {**source, "invalid_bytes": invalid} if isinstance(source, dict) else source
            for name, source in new["sources"].items()
        }
    return new


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
