"""Tables on disk: uncompressed Arrow IPC files of whole numbers, read a slice at a time."""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from megatrain.durable import replacing
from megatrain.errors import FailedWork

Schema = Mapping[str, type[np.integer[Any]]]
Batch = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """A batch of a table in its file: the columns' places, and how many rows they have.

    Slices are read, not mapped: a table never holds memory, nor a file open.
    """

    path: Path
    schema: Schema
    offsets: Mapping[str, int]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def read(self, begin: int, end: int) -> Batch:
        """Rows `begin` up to `end` of all columns."""
        return {name: self.column(name, begin, end) for name in self.schema}

    def column(self, name: str, begin: int, end: int) -> npt.NDArray[Any]:
        """Rows `begin` up to `end` of one column. Raises FailedWork where the file has become shorter."""
        dtype = np.dtype(self.schema[name])
        end = max(begin, min(end, self.rows))
        try:
            offset = self.offsets[name] + begin * dtype.itemsize
            column = np.fromfile(self.path, dtype, end - begin, offset=offset)
        except OSError as error:
            raise _damaged(self.path, error) from None
        if len(column) != end - begin:
            raise _damaged(self.path, "it ends too early")
        return column

    def find(self, name: str, *values: int) -> list[int]:
        """For each value the first row of a sorted column that is not below it."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            column = _Sorted(descriptor, np.dtype(self.schema[name]), self.offsets[name], self.rows)
            return [bisect_left(column, value) for value in values]
        finally:
            os.close(descriptor)

    def slices(self, size: int) -> Iterator[tuple[int, Batch]]:
        """The whole batch, `size` rows at a time, each with the number of its first row."""
        for begin in range(0, self.rows, size):
            yield begin, self.read(begin, min(begin + size, self.rows))


def write_batches(path: Path, schema: Schema, batches: Iterable[Batch]) -> None:
    """Write a table, its batches but for empty ones; the file is there whole or not at all."""
    fields = [pa.field(name, pa.from_numpy_dtype(dtype), nullable=False) for name, dtype in schema.items()]
    arrow = pa.schema(fields)
    with replacing(path) as file, ipc.new_file(file, arrow, options=ipc.IpcWriteOptions()) as writer:
        for batch in batches:
            columns = [pa.array(np.ascontiguousarray(batch[name], dtype)) for name, dtype in schema.items()]
            if len(columns[0]):
                writer.write_batch(pa.record_batch(columns, schema=arrow))


def open_batches(path: Path, schema: Schema) -> list[Stored]:
    """The batches of a table, none of them empty.

    Raises FailedWork where the file is missing, damaged or another table.
    """
    try:
        with pa.memory_map(str(path)) as source:
            start = source.read_buffer().address
            file = ipc.open_file(source)
            if {field.name: field.type.to_pandas_dtype() for field in file.schema} != dict(schema):
                raise ValueError(f"its columns are {file.schema.names}, not {list(schema)}")
            batches = [file.get_batch(number) for number in range(file.num_record_batches)]
            return [
                Stored(
                    path,
                    schema,
                    {name: batch.column(name).buffers()[1].address - start for name in schema},
                    batch.num_rows,
                )
                for batch in batches
            ]
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise _damaged(path, error) from None


def join(batches: Iterable[Batch], schema: Schema) -> Batch:
    """One batch of several."""
    columns = list(batches)
    return {
        name: np.concatenate([np.empty(0, dtype), *(batch[name] for batch in columns)])
        for name, dtype in schema.items()
    }


def take(batch: Batch, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Batch:
    """Some rows of a batch."""
    return {name: column[rows] for name, column in batch.items()}


@dataclass(frozen=True)
class _Sorted:
    """A column as a sequence for bisecting: reads an element at a time."""

    descriptor: int
    dtype: np.dtype[Any]
    offset: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> int:
        size = self.dtype.itemsize
        return int(np.frombuffer(os.pread(self.descriptor, size, self.offset + row * size), self.dtype)[0])


def _damaged(path: Path, reason: object) -> FailedWork:
    reason = " ".join(str(reason).split())
    return FailedWork(f"{path}: cannot be read as a table ({reason}); remove it and run again")
