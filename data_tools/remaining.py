"""What the search for duplicates leaves of one collected task: which documents, and which parts of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.collected import LENGTHS, batches_of, keys_of
from data_tools.config import Duplicates
from data_tools.duplicate_tasks import corpus_of
from data_tools.duplicates.applying import RepeatedParts, removed_documents, repeated_parts
from data_tools.duplicates.columns import open_batches
from data_tools.duplicates.cutting import cut
from data_tools.duplicates.matching import EDGES
from data_tools.duplicates.paragraphs import ParagraphKeyer
from data_tools.duplicates.substrings import SubstringKeyer


class Remaining:
    """Of the part with a number in the corpus that was looked through."""

    def __init__(self, work: Path, found: Mapping[str, Any], number: int, config: Duplicates) -> None:
        """`found` is what `Found.shared` gives. Raises FailedWork where it is about other documents."""
        self.corpus = corpus_of(found["corpus"], work, config)
        self.folder = work / found["corpus"]["parts"][number]["folder"]
        self.keys = keys_of(self.folder)
        self._number, self._work, self._found = number, work, found
        self.kept = ~removed_documents(self.corpus, number, self.keys, self._paths("removed"))
        self._cutters = [
            (ParagraphKeyer(config.paragraphs), self._parts("paragraphs")) if config.paragraphs else None,
            (SubstringKeyer(config.substrings), self._parts("substrings")) if config.substrings else None,
        ]

    @cached_property
    def num_bytes(self) -> npt.NDArray[np.int64]:
        """Of each document's text in UTF-8, before any part of it is cut out [documents]."""
        sizes: npt.NDArray[np.int64] = np.load(self.folder / LENGTHS)
        return sizes

    @cached_property
    def copies(self) -> npt.NDArray[np.bool_]:
        """Which documents repeat an earlier one to the letter [documents]."""
        begin, end = self.corpus.first_rows[self._number : self._number + 2]
        repeats = np.zeros(len(self.keys), bool)
        for path in self._paths("exact"):
            for edges in open_batches(path, EDGES):
                rows = edges.column("right", *edges.find("right", int(begin), int(end)))
                repeats[rows - begin] = True
        return repeats

    def counts(self, rows: slice) -> Counter[str]:
        """How many of some documents are removed, by kind."""
        gone = ~self.kept[rows]
        copies = int((gone & self.copies[rows]).sum())
        return Counter({"duplicates.exact": copies, "duplicates.near": int(gone.sum()) - copies})

    def text(self, row: int, text: str) -> str:
        """A document's text without the parts that repeat an earlier one."""
        spans = list[tuple[int, int]]()
        for cutter in self._cutters:
            if cutter is not None:
                keyer, parts = cutter
                at, key = parts.of(row)
                spans += keyer.spans(text, at, key) if len(at) else []
        return cut(text, spans) if spans else text

    def texts(self, rows: npt.NDArray[np.int64]) -> Iterator[str]:
        """The texts of some rows, which must be in rising order; a batch at a time is in memory."""
        for first, batch in batches_of(self.folder, rows):
            low, high = np.searchsorted(rows, [first, first + batch.num_rows])
            column = batch.column("text")
            for row in rows[low:high].tolist():
                yield self.text(row, column[row - first].as_py())

    def _paths(self, kind: str) -> Sequence[Path]:
        return [self._work / name for name in self._found[kind]]

    def _parts(self, kind: str) -> RepeatedParts:
        return repeated_parts(self.corpus, self._number, self._paths(kind))
