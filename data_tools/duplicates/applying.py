"""What the search found, for the documents of one part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.duplicates.choosing import REMOVED
from data_tools.duplicates.columns import Batch, Schema, join, open_batches
from data_tools.duplicates.corpus import Corpus
from data_tools.duplicates.hashing import Ints, UInts
from data_tools.duplicates.repeating import REPEATED
from megatrain.errors import FailedWork


def removed_documents(
    corpus: Corpus, number: int, ids: UInts, removed: Sequence[Path]
) -> npt.NDArray[np.bool_]:
    """Which documents of the part are duplicates [documents], given their ids [documents, 2].

    Raises FailedWork where a document that is to go has another id than the one that was found: removed is
    a document, not a place.
    """
    found = _of_part(corpus, number, removed, REMOVED)
    wanted = np.stack([found["high"], found["low"]], axis=1)
    if len(ids) != corpus.parts[number].documents or not np.array_equal(ids[found["row"]], wanted):
        raise FailedWork(
            f"{corpus.parts[number].ids}: the documents are not those that duplicates were found among; "
            "remove the working folder and run again"
        )
    gone = np.zeros(len(ids), bool)
    gone[found["row"]] = True
    return gone


@dataclass(frozen=True)
class RepeatedParts:
    """The repeated parts of a part's documents, sorted by document [n]: where each is, and its key."""

    document: Ints
    at: Ints
    key: UInts

    def of(self, document: int) -> tuple[Ints, UInts]:
        """Places and keys of one document's."""
        begin, end = np.searchsorted(self.document, [document, document + 1])
        return self.at[begin:end], self.key[begin:end]


def repeated_parts(corpus: Corpus, number: int, repeated: Sequence[Path]) -> RepeatedParts:
    """The repeated paragraphs, or substrings, of the documents of one part."""
    found = _of_part(corpus, number, repeated, REPEATED)
    order = np.lexsort([found["at"], found["row"]])
    return RepeatedParts(found["row"][order], found["at"][order].astype(np.int64), found["key"][order])


def _of_part(corpus: Corpus, number: int, paths: Sequence[Path], schema: Schema) -> Batch:
    """The entries of a part's documents, their rows counted through it."""
    begin, end = corpus.first_rows[number : number + 2].tolist()
    tables = [table for path in paths for table in open_batches(path, schema)]
    found = join((table.read(*table.find("row", begin, end)) for table in tables), schema)
    return {**found, "row": found["row"] - begin}
