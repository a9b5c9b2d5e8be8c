"""Where a document came from: the files beside the shards that name raw file and record of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatrain.errors import FailedWork

FOLDER = "lineage"


@dataclass(frozen=True)
class Lineage:
    """The raw file and the record in it that a document was."""

    file: str
    record: int
    language: str | None
    text_bytes: int
    metadata: str | None = None
    """What else its reader and the steps knew of it, as JSON."""

    def __str__(self) -> str:
        spoken = f", language {self.language}" if self.language else ""
        known = f", {self.metadata}" if self.metadata else ""
        return f"{self.file}, record {self.record:,}{spoken}, {self.text_bytes:,} bytes{known}"


def lineage_file(shard: Path) -> Path:
    """Where the lineage of a shard lies, if it was kept: one row a document, in the shard's order."""
    return shard.parent.parent / FOLDER / shard.parent.name / f"{shard.stem}.parquet"


def lineage_of(shard: Path, rows: range, doc_ids: list[bytes]) -> list[Lineage] | None:
    """The lineage of some rows of a shard that have these ids; None where none was kept.

    Raises FailedWork where the file is damaged or another shard's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = lineage_file(shard)
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found: list[dict[str, object]] = []
            first = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                low, high = max(rows.start, first), min(rows.stop, first + size)
                if low < high:
                    found += file.read_row_group(group).slice(low - first, high - low).to_pylist()
                first += size
    except (pa.ArrowException, OSError) as error:
        raise FailedWork(f"{path}: cannot be read ({error}); prepare the dataset again") from None
    if [row.pop("doc_id", None) for row in found] != doc_ids:
        raise FailedWork(f"{path}: names other documents than {shard.name} holds; prepare the dataset again")
    try:
        return [Lineage(**row) for row in found]  # type: ignore[arg-type]
    except TypeError:
        raise FailedWork(f"{path}: its columns are not those of a lineage file") from None
