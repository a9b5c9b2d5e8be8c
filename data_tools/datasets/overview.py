"""What a finished dataset holds: documents, tokens, bytes and lengths of each split and source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_tools.datasets.lengths import LengthCounts
from data_tools.datasets.shards import processes_for, read_columns
from data_tools.workers import pool
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import ShardInfo

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
QUANTILE_NAMES = ("least", "10 %", "median", "90 %", "99 %", "most")


@dataclass(frozen=True)
class SourceStatistics:
    """What one source has in one split. Lengths are in tokens, EOS included."""

    split: str
    source: str
    shards: int
    documents: int
    tokens: int
    text_bytes: int
    lengths: LengthCounts

    def quantiles(self) -> tuple[int, ...]:
        """The lengths at QUANTILES."""
        return tuple(self.lengths.quantile(share) for share in QUANTILES)


def statistics(splits: Mapping[str, TokenDataset]) -> tuple[SourceStatistics, ...]:
    """Of each split and source, by reading the document lengths of every shard over processes."""
    return tuple(_statistics(splits))


def table(rows: tuple[SourceStatistics, ...]) -> str:
    """Statistics as text to read."""
    width = max([len("source"), *(len(row.source) for row in rows)])
    lines = [
        f"{'split':<11} {'source':<{width}} {'shards':>6} {'documents':>12} {'tokens':>16} {'bytes':>17} "
        f"{'bytes/token':>11}   tokens a document: " + ", ".join(QUANTILE_NAMES)
    ]
    for row in rows:
        lines.append(
            f"{row.split:<11} {row.source:<{width}} {row.shards:>6,} {row.documents:>12,} {row.tokens:>16,} "
            f"{row.text_bytes:>17,} {row.text_bytes / row.tokens:>11.2f}   "
            + ", ".join(f"{length:,}" for length in row.quantiles())
        )
    return "\n".join(lines)


def _statistics(splits: Mapping[str, TokenDataset]) -> Iterator[SourceStatistics]:
    every = [shard for dataset in splits.values() for shard in dataset.manifest.shards]
    groups = [
        (
            split,
            source,
            dataset.folder,
            [shard for shard in dataset.manifest.shards if shard.source == source],
        )
        for split, dataset in splits.items()
        for source in dataset.sources
    ]
    with pool(processes_for(every)) as over:
        paths = [folder / shard.name for _, _, folder, shards in groups for shard in shards]
        counted = over(_lengths_of, paths)
        for split, source, _, shards in groups:
            lengths = LengthCounts.sum_of(next(counted) for _ in shards)
            yield _row(split, source, shards, lengths)


def _row(split: str, source: str, shards: list[ShardInfo], lengths: LengthCounts) -> SourceStatistics:
    return SourceStatistics(
        split=split,
        source=source,
        shards=len(shards),
        documents=lengths.documents,
        tokens=lengths.tokens,
        text_bytes=sum(shard.text_bytes for shard in shards),
        lengths=lengths,
    )


def _lengths_of(path: Path) -> LengthCounts:
    return LengthCounts.of(read_columns(path).lengths)
