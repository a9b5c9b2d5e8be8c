"""Tables on disk: uncompressed Arrow IPC files of whole numbers, read in place without a copy."""

from collections.abc import Iterable, Iterator, Mapping
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


def write_batches(path: Path, schema: Schema, batches: Iterable[Batch]) -> None:
    """Write a table, its batches one after the other; the file is there whole or not at all."""
    fields = [pa.field(name, pa.from_numpy_dtype(dtype), nullable=False) for name, dtype in schema.items()]
    arrow = pa.schema(fields)
    with replacing(path) as file, ipc.new_file(file, arrow, options=ipc.IpcWriteOptions()) as writer:
        for batch in batches:
            columns = [pa.array(np.ascontiguousarray(batch[name], dtype)) for name, dtype in schema.items()]
            writer.write_batch(pa.record_batch(columns, schema=arrow))


def read_batches(path: Path, schema: Schema) -> list[Batch]:
    """The batches of a table, mapped into memory: what is not touched is not read.

    Raises FailedWork where the file is missing, damaged or another table.
    """
    try:
        file = ipc.open_file(pa.memory_map(str(path)))
        if {field.name: field.type.to_pandas_dtype() for field in file.schema} != dict(schema):
            raise ValueError(f"its columns are {file.schema.names}, not {list(schema)}")
        return [_arrays(file.get_batch(number), schema) for number in range(file.num_record_batches)]
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        reason = " ".join(str(error).split())
        raise FailedWork(f"{path}: cannot be read as a table ({reason}); remove it and run again") from None


def read_all(path: Path, schema: Schema) -> Batch:
    """The whole table; one batch of it is not copied."""
    batches = read_batches(path, schema)
    if len(batches) == 1:
        return batches[0]
    return {
        name: np.concatenate([np.empty(0, dtype), *(batch[name] for batch in batches)])
        for name, dtype in schema.items()
    }


def slices(column: npt.NDArray[Any], size: int) -> Iterator[slice]:
    """Slices of a column, of `size` rows each."""
    yield from (slice(begin, begin + size) for begin in range(0, len(column), size))


def _arrays(batch: Any, schema: Schema) -> Batch:
    return {
        name: np.frombuffer(batch.column(name).buffers()[1], dtype, count=batch.num_rows)
        for name, dtype in schema.items()
    }
