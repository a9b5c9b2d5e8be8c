"""Parquet with one row a document: a column of token lists, and where they are kept `doc_id` and `source`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.convert.batches import Batch
from data_tools.datasets.shards import read_columns
from megatrain.data.manifest import ShardInfo
from megatrain.durable import replacing
from megatrain.errors import FailedWork, UserError, require

_ROWS = 1 << 10
_GROUP_TOKENS = 1 << 22


class ParquetInput:
    """A file, or the files *.parquet of a folder in the order of their names."""

    def __init__(self, path: Path, column: str) -> None:
        """`column` holds the tokens. Raises UserError where a file is no parquet or has no such column."""
        self._column = column
        self.files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
        require(self.files, f"{path}: no parquet file there")
        for file in self.files:
            self._check(file)

    def batches(self) -> Iterator[Batch]:
        """All rows, in order. Raises FailedWork naming file and row where one cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self.files:
            first = 0
            try:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    for rows in file.iter_batches(_ROWS, columns=self._columns(file)):
                        yield self._batch(path, first, rows)
                        first += rows.num_rows
            except (pa.ArrowException, OSError, ValueError) as error:
                raise FailedWork(f"{path}: row {first:,} or after: cannot be read ({error})") from None

    def _columns(self, file: Any) -> list[str]:
        names = {field.name: str(field.type) for field in file.schema_arrow}
        wanted = [self._column]
        if names.get("doc_id") in ("fixed_size_binary[16]", "binary"):
            wanted.append("doc_id")
        if names.get("source", "").removeprefix("dictionary<values=").startswith(("string", "large_string")):
            wanted.append("source")
        return wanted

    def _check(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: cannot be read as parquet ({error})") from None
        require(
            self._column in schema.names,
            f"{path}: no column {self._column!r}; it has {', '.join(schema.names)}: name one with --column",
        )
        kind = schema.field(self._column).type
        require(
            (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type),
            f"{path}: column {self._column!r} is {kind}; tokens are lists of integers",
        )

    def _batch(self, path: Path, first: int, rows: Any) -> Batch:
        lists = rows.column(self._column)
        values = lists.flatten()
        if values.null_count:
            raise ValueError("a token is null")
        lengths = lists.value_lengths().fill_null(0).cast("int64")
        names = rows.schema.names
        ids = rows.column("doc_id").to_pylist() if "doc_id" in names else None
        if ids is not None and any(one is None or len(one) != 16 for one in ids):
            raise ValueError("a doc_id is not of 16 bytes")
        sources = rows.column("source").to_pylist() if "source" in names else None
        if sources is not None and not all(sources):
            raise ValueError("a source has no name")
        return Batch(path, first, _array(lengths), _array(values), ids, sources)


def write_parquet(path: Path, shard: Path, info: ShardInfo) -> None:
    """A file of the documents of a shard, in groups of rows of some million tokens, compressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = read_columns(shard)
    tokens = pa.array(columns.tokens)
    schema = pa.schema(
        [("tokens", pa.large_list(tokens.type)), ("doc_id", pa.binary(16)), ("source", pa.string())]
    )
    with (
        replacing(path) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        first = 0
        while first < info.documents:
            limit = int(columns.offsets[first]) + _GROUP_TOKENS
            stop = max(first + 1, int(np.searchsorted(columns.offsets, limit, side="right")) - 1)
            offsets = columns.offsets[first : stop + 1]
            cut = tokens[int(offsets[0]) : int(offsets[-1])]
            parts = [
                pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), cut),
                pa.array([columns.doc_id(row) for row in range(first, stop)], pa.binary(16)),
                pa.array([info.source] * (stop - first)),
            ]
            writer.write_table(pa.Table.from_arrays(parts, schema=schema))
            first = stop


def _array(column: Any) -> npt.NDArray[Any]:
    """The values of an integer column without nulls; not to_numpy(), which imports pandas where it can."""
    dtype = np.dtype(str(column.type))
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype)[column.offset : column.offset + len(column)]
