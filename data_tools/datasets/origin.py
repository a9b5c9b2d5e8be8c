"""What a sample is made of: where in the shards it lies, and which documents it cuts or holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.datasets.lineage import Lineage, lineage_of
from data_tools.datasets.shards import read_columns
from megatrain.data.dataset import TokenDataset
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require


@dataclass(frozen=True)
class Piece:
    """What a sample has of one document: its tokens [first, last) of `length`."""

    doc_id: bytes
    row: int
    first: int
    last: int
    length: int
    lineage: Lineage | None
    text: str


@dataclass(frozen=True)
class Span:
    """Tokens [first, last) of one shard, which is numbered as in the manifest."""

    shard: int
    first: int
    last: int


@dataclass(frozen=True)
class Origin:
    """The spans of shards that a sample is read from, and what it has of which documents."""

    shards: tuple[Path, ...]
    spans: tuple[Span, ...]
    pieces: tuple[Piece, ...]

    def text(self, characters: int = 600) -> str:
        """The whole as text to read; so many characters of each document."""
        lines = [
            f"shard      {path}, tokens {span.first:,} to {span.last - 1:,}"
            for path, span in zip(self.shards, self.spans, strict=True)
        ]
        unknown = (
            "" if self.pieces[0].lineage else "; which records they were was not kept (no lineage files)"
        )
        lines.append(f"documents  {len(self.pieces):,}{unknown}")
        for piece in self.pieces:
            lines.append(
                f"--- {piece.doc_id.hex()}, row {piece.row:,}: its tokens {piece.first:,} to "
                f"{piece.last - 1:,} of {piece.length:,}" + (f"; {piece.lineage}" if piece.lineage else "")
            )
            lines.append(shortened(piece.text, characters))
        return "\n".join(lines)


def span_of_window(dataset: TokenDataset, source: str, number: int, sequence_length: int) -> Span:
    """Where a window of a source lies, its last label included. Raises UserError where there is none such."""
    windows = dataset.windows(source, sequence_length)
    require(
        0 <= number < windows,
        f"{dataset.folder}: source {source} has no window {number:,}: it has {windows:,} of "
        f"{sequence_length:,} + 1 tokens, counted from 0",
    )
    for shard, info in enumerate(dataset.manifest.shards):
        here = (info.tokens - 1) // sequence_length if info.source == source else 0
        if number < here:
            first = number * sequence_length
            return Span(shard, first, first + sequence_length + 1)
        number -= here
    raise AssertionError("the dataset counts windows that no shard holds")


def origin(dataset: TokenDataset, spans: Sequence[Span]) -> Origin:
    """Decode spans of a dataset's shards, and name the documents that they are of."""
    paths = tuple(dataset.folder / dataset.manifest.shards[span.shard].name for span in spans)
    tokenizer = dataset.tokenizer()
    pieces = [
        piece for path, span in zip(paths, spans, strict=True) for piece in _pieces(path, span, tokenizer)
    ]
    return Origin(paths, tuple(spans), tuple(pieces))


def shortened(text: str, characters: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= characters else text[:characters] + " ..."


def _pieces(path: Path, span: Span, tokenizer: Tokenizer) -> Iterator[Piece]:
    columns = read_columns(path)
    ends = columns.offsets[1:]
    rows = range(
        int(np.searchsorted(ends, span.first, side="right")),
        int(np.searchsorted(ends, span.last - 1, side="right")) + 1,
    )
    ids = [columns.doc_id(row) for row in rows]
    lineage = lineage_of(path, rows, ids)
    for number, (row, doc_id) in enumerate(zip(rows, ids, strict=True)):
        known = lineage[number] if lineage else None
        start, end = int(columns.offsets[row]), int(columns.offsets[row + 1])
        low, high = max(span.first, start), min(span.last, end)
        text = tokenizer.decode(columns.tokens[low:high])  # EOS decodes to nothing
        yield Piece(doc_id, row, low - start, high - start, end - start, known, text)
