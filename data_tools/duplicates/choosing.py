"""Of each cluster one document is kept: of the first source that has one, that with the least id."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from data_tools.duplicates.clustering import LABELS
from data_tools.duplicates.columns import Batch, Schema, open_batches, take, write_batches
from data_tools.duplicates.corpus import Corpus
from data_tools.duplicates.hashing import Ints
from data_tools.duplicates.report import Examples, Report

# Rows to remove, sorted; their ids, to be compared where they are removed; the row kept in their place.
REMOVED: Final[Schema] = {"row": np.int64, "high": np.uint64, "low": np.uint64, "kept": np.int64}
_BYTES_A_LABEL: Final = 96  # Sizes, what is kept, and the search for the largest clusters.
_BYTES_A_ROW: Final = 160
_ROWS_AT_ONCE: Final = 1 << 20
_NO_ROW: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Choose:
    """The choice in all clusters whose label is in a range."""

    corpus: Corpus
    labels: Path
    range: range
    rows_at_once: int
    out: Path


def plan_choices(corpus: Corpus, labels: Path, memory_bytes: int, folder: Path) -> list[Choose]:
    """The choices that together cover all clusters, each within about so much memory."""
    rows_at_once = max(min(_ROWS_AT_ONCE, memory_bytes // (4 * _BYTES_A_ROW)), 1)
    size = max((memory_bytes - rows_at_once * _BYTES_A_ROW) // _BYTES_A_LABEL, 1)
    return [
        Choose(
            corpus,
            labels,
            range(begin, min(begin + size, corpus.documents)),
            rows_at_once,
            folder / f"removed-{number:05d}.arrow",
        )
        for number, begin in enumerate(range(0, corpus.documents, size))
    ]


def choose(task: Choose) -> Report:
    """Write what is removed of the clusters in the range, and report on them."""
    sizes = np.zeros(len(task.range), np.int64)
    for _, _, labels in _labels(task):
        np.add.at(sizes, labels - task.range.start, 1)
    best = _best(task, sizes)
    sources = len(task.corpus.sources)
    pairs = np.zeros(sources**2, np.int64)
    examples = Examples(sizes, best["high"], best["low"])

    def removed() -> Iterator[Batch]:
        for batch in _members(task, sizes):
            kept = best["row"][batch["label"] - task.range.start]
            gone = take({**batch, "kept": kept}, batch["row"] != kept)
            pair = task.corpus.source_of(gone["kept"]) * sources + task.corpus.source_of(gone["row"])
            pairs[:] += np.bincount(pair, minlength=sources**2)
            examples.add(gone["label"] - task.range.start, gone["high"], gone["low"])
            yield gone

    write_batches(task.out, REMOVED, removed())
    names = task.corpus.sources
    size, clusters = np.unique(sizes[sizes > 1], return_counts=True)
    return Report(
        Counter(dict(zip(size.tolist(), clusters.tolist(), strict=True))),
        Counter(
            {
                (names[pair // sources], names[pair % sources]): int(pairs[pair])
                for pair in np.flatnonzero(pairs).tolist()
            }
        ),
        examples.largest(),
    )


def _labels(task: Choose) -> Iterator[tuple[int, Ints, Ints]]:
    """For some rows at a time: the first, which of them have a label in the range, and their labels."""
    row = 0
    for table in open_batches(task.labels, LABELS):
        for first, batch in table.slices(task.rows_at_once):
            labels = batch["label"]
            # A label is never above its row.
            if row + first + len(labels) > task.range.start:
                inside = np.flatnonzero((labels >= task.range.start) & (labels < task.range.stop))
                yield row + first, inside, labels[inside]
        row += len(table)


def _members(task: Choose, sizes: Ints) -> Iterator[Batch]:
    """The rows in clusters of two and more, with label and id, some at a time."""
    for row, inside, labels in _labels(task):
        several = sizes[labels - task.range.start] > 1
        if several.any():
            at = inside[several]
            begin, end = int(at[0]), int(at[-1]) + 1
            ids = task.corpus.ids(row + begin, row + end)
            yield {
                "row": at + row,
                "label": labels[several],
                **{name: column[at - begin] for name, column in ids.items()},
            }


def _best(task: Choose, sizes: Ints) -> Batch:
    """The row and id of the document that is kept, for each label of the range."""
    best = {
        "row": np.full(len(sizes), _NO_ROW),
        "high": np.zeros(len(sizes), np.uint64),
        "low": np.zeros(len(sizes), np.uint64),
    }
    for batch in _members(task, sizes):
        # A label is a row of the cluster's first source, for rows stand in the order of sources.
        first = task.corpus.source_of(batch["row"]) == task.corpus.source_of(batch["label"])
        found = take(batch, first)
        order = np.lexsort([found["row"], found["low"], found["high"], found["label"]])
        label = found["label"][order]
        order = order[np.concatenate([[True], label[1:] != label[:-1]])[: len(label)]]
        found = take(found, order)
        at = found["label"] - task.range.start
        now = take(best, at)
        less = (found["low"] < now["low"]) | ((found["low"] == now["low"]) & (found["row"] < now["row"]))
        less = (found["high"] < now["high"]) | ((found["high"] == now["high"]) & less)
        less |= now["row"] == _NO_ROW
        for name, column in best.items():
            column[at[less]] = found[name][less]
    return best
