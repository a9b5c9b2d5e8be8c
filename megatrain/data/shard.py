"""The shard file: an uncompressed Arrow IPC file of one record batch, one row a document, one source."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from megatrain.data.manifest import ShardInfo
from megatrain.data.stored import check_version
from megatrain.durable import hash_file, sync_folder
from megatrain.errors import FailedWork, UserError, require
from megatrain.records import parse_record

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
FORMAT_VERSION = 1
_METADATA_KEY = b"megatrain"


class Layout(NamedTuple):
    """What the shard's own footer says of it: where its run of tokens begins, and how much it holds."""

    values_offset: int
    documents: int
    tokens: int
    dtype: str


class StoredDocument(NamedTuple):
    """One row of a shard. `tokens` ends with EOS."""

    doc_id: bytes
    source: str
    tokens: Tokens


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype that tokens are stored in: uint16 for up to 65,536 ids, uint32 above."""
    return np.dtype(np.uint16 if vocab_size <= 65_536 else np.uint32)


def write_shard(
    path: Path,
    *,
    source: str,
    doc_ids: Sequence[bytes],
    lengths: npt.NDArray[np.int64],
    tokens: Tokens,
    tokenizer_hash: str,
    text_bytes: int,
) -> ShardInfo:
    """Write one shard durably under a temporary name, rename it, and describe it.

    `tokens` is the run of all documents' tokens, each document ending with EOS; `lengths` [documents] cuts
    it.
    """
    import pyarrow as pa

    assert len(doc_ids) == len(lengths) and int(lengths.sum()) == len(tokens)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    metadata = {"format_version": FORMAT_VERSION, "tokenizer_hash": tokenizer_hash, "source": source}
    columns = [
        pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(tokens)),
        pa.array(doc_ids, pa.binary(16)),
        pa.DictionaryArray.from_arrays(np.zeros(len(lengths), np.int16), pa.array([source])),
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=["tokens", "doc_id", "source"])
    batch = batch.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        options = pa.ipc.IpcWriteOptions(compression=None)
        with pa.ipc.new_file(stream, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        stream.flush()
        os.fsync(stream.fileno())
    info = ShardInfo(
        name=path.name,
        source=source,
        documents=len(lengths),
        tokens=len(tokens),
        text_bytes=text_bytes,
        bytes=temporary.stat().st_size,
        values_offset=layout_of(temporary).values_offset,
        hash=hash_file(temporary),
        tokens_hash=xxhash.xxh3_128_hexdigest(np.ascontiguousarray(tokens).data),
    )
    os.replace(temporary, path)
    sync_folder(path.parent)
    return info


def read_shard(path: Path) -> Iterator[StoredDocument]:
    """The documents of a shard, in order, by Arrow itself; for inspection and tests, not for training.

    Raises FailedWork where it is not a whole shard, UserError where it is one of a newer version or of
    another program.
    """
    batch = _open_batch(path)
    lists, doc_ids = batch.column("tokens"), batch.column("doc_id")
    # Not to_numpy(): it imports pandas where that is installed.
    offsets = np.frombuffer(lists.buffers()[1], np.int64)
    values = np.frombuffer(lists.values.buffers()[1], token_dtype_of(str(lists.type.value_type)))
    for row in range(batch.num_rows):
        source = batch.column("source")[row].as_py()
        yield StoredDocument(doc_ids[row].as_py(), source, values[offsets[row] : offsets[row + 1]])


def document_bounds(path: Path) -> npt.NDArray[np.int64]:
    """Where each document of a shard begins among its tokens, and where the last ends [documents + 1].

    Raises what read_shard raises.
    """
    batch = _open_batch(path)
    offsets = np.frombuffer(batch.column("tokens").buffers()[1], np.int64)
    return offsets[: batch.num_rows + 1].copy()


def token_dtype_of(name: str) -> np.dtype[Any]:
    """The dtype by the name that a manifest or an Arrow schema gives it."""
    require(name in ("uint16", "uint32"), f"tokens of type {name}: only uint16 and uint32 can be read")
    return np.dtype(name)


def _open_batch(path: Path) -> Any:
    """The one record batch of a shard, mapped into memory."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        stored = (reader.schema.metadata or {}).get(_METADATA_KEY)
        if stored is None:
            raise UserError(f"{path}: an Arrow file, but not a shard of megatrain")
        check_version(parse_record(stored).get("format_version"), path, FORMAT_VERSION)
        return reader.get_batch(0)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FailedWork(
            f"{path}: not a whole Arrow file ({error}); prepare the dataset again or restore this file"
        ) from None


def layout_of(path: Path) -> Layout:
    """Read the layout of a shard, and none of its tokens. Raises FailedWork where it is not a whole shard."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            lists = pa.ipc.open_file(file).get_batch(0).column("tokens")
            start = file.read_buffer().address if file.seek(0) == 0 else 0
            values = lists.values.buffers()[1]
            return Layout(values.address - start, len(lists), len(lists.values), str(lists.type.value_type))
    except (pa.ArrowException, OSError, LookupError, ValueError, AttributeError) as error:
        raise FailedWork(
            f"{path}: not a whole Arrow file ({error}); prepare the dataset again or restore this file"
        ) from None
