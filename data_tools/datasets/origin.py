"""What a window is made of: the shard it lies in, its tokens, the documents that it cuts or holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.datasets.lineage import Lineage, lineage_of
from data_tools.datasets.shards import read_columns
from megatrain.data.dataset import TokenDataset
from megatrain.errors import FailedWork, require


@dataclass(frozen=True)
class Piece:
    """What a window has of one document: its tokens [first, last) of `length`."""

    doc_id: bytes
    row: int
    first: int
    last: int
    length: int
    lineage: Lineage | None
    text: str


@dataclass(frozen=True)
class Window:
    """A window of a source: tokens [first_token, last_token) of a shard, and the documents they are of."""

    source: str
    number: int
    windows: int
    """How many the source has."""
    shard: Path
    first_token: int
    last_token: int
    pieces: tuple[Piece, ...]

    def text(self, characters: int = 600) -> str:
        """The whole as text to read; so many characters of each document."""
        lines = [
            f"window     {self.number:,} of source {self.source}, which has {self.windows:,}",
            f"shard      {self.shard}",
            f"tokens     {self.first_token:,} to {self.last_token - 1:,} of the shard: the sample, and "
            "the label of its last token",
            f"documents  {len(self.pieces):,}"
            + ("" if self.pieces[0].lineage else "; where they came from was not kept (no lineage files)"),
        ]
        for piece in self.pieces:
            lines.append(
                f"--- {piece.doc_id.hex()}, row {piece.row:,}: its tokens {piece.first:,} to "
                f"{piece.last - 1:,} of {piece.length:,}"
                + (f"; from {piece.lineage}" if piece.lineage else "")
            )
            lines.append(shortened(piece.text, characters))
        return "\n".join(lines)


def read_window(dataset: TokenDataset, source: str, number: int, sequence_length: int) -> Window:
    """Find a window of a source and decode it.

    Raises UserError where the source has no such window, FailedWork where the shard holds other tokens than
    training reads.
    """
    windows = dataset.windows(source, sequence_length)
    require(
        0 <= number < windows,
        f"{dataset.folder}: source {source} has no window {number:,}: it has {windows:,} of "
        f"{sequence_length:,} + 1 tokens, counted from 0",
    )
    left = number
    for shard in dataset.manifest.shards:
        here = max(0, (shard.tokens - 1) // sequence_length) if shard.source == source else 0
        if left < here:
            break
        left -= here
    path, first = dataset.folder / shard.name, left * sequence_length
    last = first + sequence_length + 1
    _require_what_is_trained_on(dataset, path, source, number, first, last)
    return Window(source, number, windows, path, first, last, _pieces(dataset, path, first, last))


def shortened(text: str, characters: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= characters else text[:characters] + " ..."


def _require_what_is_trained_on(
    dataset: TokenDataset, path: Path, source: str, number: int, first: int, last: int
) -> None:
    """The place was computed here; the tokens at it are compared with those that training gets."""
    read = np.empty((1, last - first), np.int64)
    dataset.read(source, np.array([number], np.int64), last - first - 1, read)
    if not np.array_equal(read[0], read_columns(path).tokens[first:last]):
        raise FailedWork(f"{path}: Arrow reads other tokens there than training; prepare the dataset again")


def _pieces(dataset: TokenDataset, path: Path, first: int, last: int) -> tuple[Piece, ...]:
    columns, tokenizer = read_columns(path), dataset.tokenizer()
    ends = columns.offsets[1:]
    rows = range(
        int(np.searchsorted(ends, first, side="right")),
        int(np.searchsorted(ends, last - 1, side="right")) + 1,
    )
    ids = [columns.doc_id(row) for row in rows]
    lineage = lineage_of(path, rows, ids)
    pieces = []
    for number, (row, doc_id) in enumerate(zip(rows, ids, strict=True)):
        start, end = int(columns.offsets[row]), int(columns.offsets[row + 1])
        low, high = max(first, start), min(last, end)
        known = lineage[number] if lineage else None
        text = tokenizer.decode(columns.tokens[low:high])  # EOS decodes to nothing
        pieces.append(Piece(doc_id, row, low - start, high - start, end - start, known, text))
    return tuple(pieces)
