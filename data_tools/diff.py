"""What differs between two datasets: tokenizer, config, totals, and which documents lie where."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.datasets.ids import Label, files_for
from data_tools.datasets.matching import Group, Matched, match
from data_tools.datasets.shards import open_splits
from megatrain.data.dataset import TokenDataset

_VALUE_CHARACTERS = 60


class Totals(NamedTuple):
    """What a source has in a split of a dataset."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0


@dataclass(frozen=True)
class Difference:
    """All that differs between the datasets A and B."""

    settings: dict[str, tuple[Any, Any]]
    """By dotted key: what they were made with, and is not alike; None where one has no such key."""
    totals: dict[Label, tuple[Totals, Totals]]
    documents: Matched
    same_streams: bool
    """Whether each split has the same tokens in the same order: the fingerprints."""

    @property
    def equal(self) -> bool:
        """Whether both hold the same: tokenizer, documents and their places, totals, token streams. How they
        were made does not count: a dataset that was exported and imported again is equal."""
        found = self.documents
        same_totals = all(ours == theirs for ours, theirs in self.totals.values())
        moved = found.only_in_a or found.only_in_b or found.moved
        same_tokenizer = not any(key.startswith("tokenizer.") for key in self.settings)
        return self.same_streams and same_totals and same_tokenizer and not moved

    def text(self) -> str:
        """The whole as text to read."""
        lines = [f"{key}: {_told(a)} in A, {_told(b)} in B" for key, (a, b) in self.settings.items()]
        lines += _table(self.totals)
        found = self.documents
        lines.append(f"{found.common:,} documents have the same place in both")
        for title, groups in (("only in A", found.only_in_a), ("only in B", found.only_in_b)):
            lines += [_line(f"{title}, {label}", group) for label, group in sorted(groups.items())]
        for (before, after), group in sorted(found.moved.items()):
            lines.append(_line(f"{before} in A, {after} in B", group))
        if self.same_streams:
            lines.append("the token streams are the same: equal fingerprints")
        elif not (found.only_in_a or found.only_in_b or found.moved):
            lines.append("the same documents, but other tokens, another order, or another number of copies")
        return "\n".join(lines)


def diff(first: Path, second: Path, *, examples: int = 3) -> Difference:
    """Compare two datasets, or two splits, document by document in bounded memory.

    Raises UserError where one is no dataset.
    """
    a, b = open_splits(first), open_splits(second)
    with tempfile.TemporaryDirectory(prefix="megatrain-") as work:
        documents = match(a, b, Path(work), files=files_for([a, b]), examples=examples)
    totals = [_totals(a), _totals(b)]
    fingerprints = [{name: one.fingerprint for name, one in splits.items()} for splits in (a, b)]
    return Difference(
        settings=_settings(a, b),
        totals={
            label: (totals[0].get(label, Totals()), totals[1].get(label, Totals()))
            for label in [*totals[0], *(label for label in totals[1] if label not in totals[0])]
        },
        documents=documents,
        same_streams=fingerprints[0] == fingerprints[1],
    )


def _totals(splits: Mapping[str, TokenDataset]) -> dict[Label, Totals]:
    found: dict[Label, Totals] = {}
    for split, dataset in splits.items():
        for shard in dataset.manifest.shards:
            label = Label(split, shard.source)
            added = (shard.documents, shard.tokens, shard.text_bytes)
            found[label] = Totals(*map(sum, zip(found.get(label, Totals()), added, strict=True)))
    return found


def _settings(a: Mapping[str, TokenDataset], b: Mapping[str, TokenDataset]) -> dict[str, tuple[Any, Any]]:
    ours, theirs = (dict(_flat(_decides(next(iter(splits.values()))))) for splits in (a, b))
    keys = [*ours, *(key for key in theirs if key not in ours)]
    pairs = {key: (ours.get(key), theirs.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _decides(dataset: TokenDataset) -> dict[str, Any]:
    made = dataset.manifest.made
    return {
        "tokenizer": dataclasses.asdict(dataset.manifest.tokenizer),
        "pipeline_version": made.get("pipeline_version"),
        "config": made.get("config"),
    }


def _flat(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a tree by its dotted key; the items of a list of mappings by their number."""
    if isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping) or not tree:
        yield at, tree
        return
    for key, value in tree.items():
        yield from _flat(value, f"{at}.{key}" if at else str(key))


def _told(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "..."


def _table(totals: Mapping[Label, tuple[Totals, Totals]]) -> list[str]:
    width = max([len(str(label)) for label in totals] + [12])
    lines = [f"{'split/source':<{width}} {'':<10} {'A':>20} {'B':>20} {'B - A':>20}"]
    for label, (ours, theirs) in totals.items():
        for name, a, b in zip(("documents", "tokens", "bytes"), ours, theirs, strict=True):
            lines.append(f"{label!s:<{width}} {name:<10} {a:>20,} {b:>20,} {b - a:>+20,}")
    return lines


def _line(what: str, group: Group) -> str:
    more = ", ..." if group.documents > len(group.examples) else ""
    return (
        f"{what}: {group.documents:,} documents, {group.tokens:,} tokens ({', '.join(group.examples)}{more})"
    )
