"""scores-SPLIT.json: what `evaluate` last found of a run, as `report` reads it."""

from __future__ import annotations

from pathlib import Path

from megatrain.errors import FailedWork, UserError
from megatrain.observe.lines import is_number
from megatrain.records import OWN_HASH, check_seal, parse_record, read_file

VERSION = 2  # 1: without version and hash


def read_scores(path: Path) -> dict[str, float]:
    """Return who → bits per byte over all sources, of those that have a number.

    Raises UserError for a newer version, FailedWork for a damaged file.
    """
    try:
        tree = parse_record(read_file(path))
        version = tree.get("version", 1)  # 1: without version and hash
        if type(version) is not int or version < 1:
            raise ValueError(f"version is {str(version)[:40]!r}")
        check_seal(tree, required="version" in tree)
        if version > VERSION:
            raise UserError(f"{path}: version {version} is newer than this megatrain; upgrade")
        if tree.keys() - {OWN_HASH, "version"} != {"model", "split", "results"}:
            raise ValueError(f"its keys are {', '.join(sorted(tree))}"[:200])
        found = {who: by_source["all"]["bits_per_byte"] for who, by_source in tree["results"].items()}
        bits = {who: value for who, value in found.items() if value is not None}
        if not all(map(is_number, bits.values())):
            raise ValueError("bits_per_byte is no number")
        return bits
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FailedWork(f"{path}: damaged ({error}); evaluate again, or remove it") from None
