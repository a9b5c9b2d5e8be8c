"""Records stored beside shards: read without trust; they have a version, and since version 2 a hash of their
own.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from megatrain.errors import FailedWork, UserError, require
from megatrain.records import OWN_HASH, check_seal, parse_record

VERSION = "format_version"
SEALED_SINCE = 2
"""The first version, of manifests, plans and descriptions of tokenizers alike, that has a hash of its own."""
_Record = TypeVar("_Record")


def parse_stored(content: bytes, where: object, *, newest: int, mend: str) -> tuple[int, dict[str, Any]]:
    """Return the version and the fields of a record.

    The hash is compared wherever one is present, before the version is believed: a flipped version number
    does not switch the comparison off. Raises FailedWork where the record is damaged, UserError where its
    version is newer than `newest` or it is no record of megatrain.
    """
    try:
        tree = parse_record(content)
    except ValueError as error:
        raise FailedWork(f"{where}: damaged, not JSON ({error}); {mend}") from None
    try:
        check_seal(tree, required=False)
        version = _version_of(tree, where)
        if version <= newest:
            check_seal(tree, required=version >= SEALED_SINCE)
    except ValueError as error:
        raise FailedWork(f"{where}: damaged: {error}; {mend}") from None
    check_version(version, where, newest)
    return version, {name: value for name, value in tree.items() if name not in (VERSION, OWN_HASH)}


def check_version(version: object, where: object, newest: int) -> None:
    """Raise UserError unless this version of a stored format can be read."""
    require(
        type(version) is int and version > 0,
        f"{where}: names no format version; it is not a dataset of megatrain",
    )
    assert isinstance(version, int)
    require(
        version <= newest,
        f"{where}: format version {version} is newer than this megatrain reads ({newest}); upgrade megatrain",
    )


def typed(record: type[_Record], fields: object) -> _Record:
    """Return a dataclass of JSON values. Raises ValueError where a field is absent, unknown or of another
    type."""
    if not isinstance(fields, Mapping):
        raise ValueError(f"{type(fields).__name__} in place of a {record.__name__}")
    for name, kinds in _kinds(record).items():
        if name in fields and type(fields[name]) not in kinds:
            raise ValueError(f"{name} is a {type(fields[name]).__name__}")
    try:
        return record(**fields)
    except TypeError as error:
        raise ValueError(str(error).partition(") ")[2] or str(error)) from None


def _kinds(record: type[Any]) -> dict[str, tuple[type[Any], ...]]:
    hints = typing.get_type_hints(record).items()
    return {
        name: typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,) for name, hint in hints
    }


def _version_of(tree: Mapping[str, Any], where: object) -> int:
    version = tree.get(VERSION)
    if type(version) is int and version > 0:
        return version
    if OWN_HASH in tree or "fingerprint" in tree or VERSION in tree:
        raise ValueError(f"its {VERSION} is {version!r}")
    raise UserError(f"{where}: names no format version; it is not a dataset of megatrain")
