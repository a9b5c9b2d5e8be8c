"""The documents of two datasets matched by their ids, out of core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_tools.datasets.ids import Label, Rows, Spread, first_of_each, hex_id, spread
from megatrain.data.dataset import TokenDataset


@dataclass
class Group:
    """Documents that have the same fate, with the ids of a few."""

    documents: int = 0
    tokens: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, rows: Rows, examples: int) -> None:
        """Count more of them; up to so many examples are kept."""
        self.documents += len(rows)
        self.tokens += int(rows["tokens"].sum())
        self.examples += [hex_id(row) for row in rows[: examples - len(self.examples)]]


@dataclass
class Matched:
    """Which documents the datasets A and B share.

    One that a dataset has several times counts once, at the first of its places by split and source.
    """

    only_in_a: dict[Label, Group] = field(default_factory=dict)
    only_in_b: dict[Label, Group] = field(default_factory=dict)
    moved: dict[tuple[Label, Label], Group] = field(default_factory=dict)
    """By the place in A and that in B; tokens are those of B."""
    common: int = 0
    """How many have the same place in both."""


def match(
    a: Mapping[str, TokenDataset], b: Mapping[str, TokenDataset], work: Path, *, files: int, examples: int
) -> Matched:
    """Match all documents; the ids are spread over so many files in the folder `work`."""
    of_a, of_b = spread(a, work / "a", files), spread(b, work / "b", files)
    found = Matched()
    for file in range(files):
        _match_file(found, of_a, of_b, file, examples)
    return found


def _match_file(found: Matched, of_a: Spread, of_b: Spread, file: int, examples: int) -> None:
    ours, theirs = (rows[first_of_each(rows)] for rows in (of_a.rows(file), of_b.rows(file)))
    both = np.concatenate([ours, theirs])
    order = np.lexsort((both["low"], both["high"]))  # keeps the order of equals: A's before B's
    at = np.flatnonzero(~first_of_each(both[order]))
    in_a, in_b = order[at - 1], order[at] - len(ours)
    for groups, rows, shared, labels in (
        (found.only_in_a, ours, in_a, of_a.labels),
        (found.only_in_b, theirs, in_b, of_b.labels),
    ):
        for label, alone in _by_label(np.delete(rows, shared), labels):
            groups.setdefault(label, Group()).add(alone, examples)
    before, after = ours[in_a], theirs[in_b]
    for number, old in enumerate(of_a.labels):
        for new, moved in _by_label(after[before["label"] == number], of_b.labels):
            if new == old:
                found.common += len(moved)
            else:
                found.moved.setdefault((old, new), Group()).add(moved, examples)


def _by_label(rows: Rows, labels: tuple[Label, ...]) -> Iterator[tuple[Label, Rows]]:
    for number in np.unique(rows["label"]).tolist():
        yield labels[number], rows[rows["label"] == number]
