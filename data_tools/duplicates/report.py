"""What was found of duplicates, in numbers and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from data_tools.duplicates.hashing import Ints, UInts

_LARGEST: Final = 20
_REMOVED: Final = 4


@dataclass(frozen=True)
class Example:
    """One cluster: its size, the id of the document that is kept and of a few that are not, in hex."""

    size: int
    kept: str
    removed: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Clusters by size, removed documents by (source that keeps the text, source of the copy), the largest
    clusters."""

    sizes: Counter[int] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    largest: tuple[Example, ...] = ()

    @property
    def removed(self) -> int:
        """How many documents are removed."""
        return sum(self.pairs.values())

    def as_json(self) -> dict[str, Any]:
        """The report as a tree for a JSON file."""
        return {
            "removed": self.removed,
            "clusters_by_size": {str(size): count for size, count in sorted(self.sizes.items())},
            "removed_by_sources": [
                {"kept": kept, "removed": removed, "documents": count}
                for (kept, removed), count in sorted(self.pairs.items())
            ],
            "largest_clusters": [
                {"size": one.size, "kept": one.kept, "removed": list(one.removed)} for one in self.largest
            ],
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Report:
        """The report that a tree is of."""
        return cls(
            Counter({int(size): count for size, count in tree["clusters_by_size"].items()}),
            Counter({(one["kept"], one["removed"]): one["documents"] for one in tree["removed_by_sources"]}),
            tuple(
                Example(one["size"], one["kept"], tuple(one["removed"])) for one in tree["largest_clusters"]
            ),
        )


def merge(reports: Iterable[Report]) -> Report:
    """One report of several that have no cluster in common."""
    sizes, pairs, examples = Counter[int](), Counter[tuple[str, str]](), list[Example]()
    for report in reports:
        sizes.update(report.sizes)
        pairs.update(report.pairs)
        examples += report.largest
    return Report(sizes, pairs, largest(examples))


def largest(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples that a report shows, largest first."""
    return tuple(sorted(examples, key=lambda one: (-one.size, one.kept))[:_LARGEST])


class Examples:
    """The largest of some clusters, with the least ids of what they lose, gathered as these go by.

    Clusters are numbered; `sizes`, `high` and `low` [clusters] are their sizes and the ids that are kept.
    """

    def __init__(self, sizes: Ints, high: UInts, low: UInts) -> None:
        several = np.flatnonzero(sizes > 1)
        chosen = several[np.lexsort([low[several], high[several], -sizes[several]])[:_LARGEST]]
        self._kept = {
            int(cluster): (int(sizes[cluster]), _hex(high[cluster], low[cluster])) for cluster in chosen
        }
        self._removed: dict[int, list[str]] = {cluster: [] for cluster in self._kept}

    def add(self, clusters: Ints, high: UInts, low: UInts) -> None:
        """Look at some removed documents [n]: the cluster and id of each."""
        for cluster, known in self._removed.items():
            here = np.flatnonzero(clusters == cluster)
            least = here[np.lexsort([low[here], high[here]])[:_REMOVED]]
            new = [_hex(high[row], low[row]) for row in least]
            self._removed[cluster] = sorted([*known, *new])[:_REMOVED]

    def largest(self) -> tuple[Example, ...]:
        """What was seen of them."""
        return largest(
            Example(size, kept, tuple(self._removed[cluster])) for cluster, (size, kept) in self._kept.items()
        )


def _hex(high: np.uint64, low: np.uint64) -> str:
    return f"{int(high):016x}{int(low):016x}"
