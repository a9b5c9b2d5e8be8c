"""Parquet and Arrow: the rows of tables, a batch at a time and of no more columns than are wanted."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from data_tools.document import Document, Drop
from data_tools.readers.parts import InputPart
from data_tools.readers.raw import CHUNK_BYTES, Stream, failure_of, reason
from data_tools.readers.records import Record, decode, document, metadata_value, too_large
from data_tools.readers.source import Source
from data_tools.readers.streams import Damaged
from megatrain.errors import UserError

_BATCH_BYTES = 8 << 20
_MOST_ROWS = 1024
_ARROW_FILE = b"ARROW1"


def read_parquet(raw: Stream, part: InputPart, source: Source, name: str) -> Iterator[Record]:
    """The documents of the row groups that begin in a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        # No read-ahead: a group of any size is read page by page.
        file = pq.ParquetFile(
            pa.PythonFile(raw, "r"),
            pre_buffer=False,
            buffer_size=CHUNK_BYTES,
            page_checksum_verification=True,
        )
        columns = _Columns(file.schema_arrow, source, name, part.url)
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if part.start <= _begin(group) < part.stop:
                batches = file.iter_batches(
                    _rows_at_once(group, source.text_column),
                    row_groups=[number],
                    columns=columns.wanted,
                    use_threads=False,
                )
                for batch in batches:
                    yield from columns.records(batch, row)
                    row += batch.num_rows
            else:
                row += group.num_rows
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _told(raw, row, error) from None


def _told(raw: Stream, row: int, error: Exception) -> Exception:
    """Arrow tells a disk that failed in the same words as damage."""
    found = f"the file is damaged or cut short ({reason(error)})"
    return failure_of(raw) or Damaged(row, found, "row")


def _begin(group: Any) -> int:
    """Where a row group lies in its file: the same for all who ask, and for each group another."""
    return int(group.column(0).data_page_offset)


def _rows_at_once(group: Any, text_column: str) -> int:
    sizes = {
        group.column(number).path_in_schema: group.column(number).total_uncompressed_size
        for number in range(group.num_columns)
    }
    size = sizes.get(text_column, group.total_byte_size)
    return int(max(1, min(_MOST_ROWS, _BATCH_BYTES * group.num_rows // max(size, 1))))


def read_arrow(raw: Stream, source: Source, name: str, url: str) -> Iterator[Record]:
    """The documents of an Arrow file or stream."""
    import pyarrow as pa

    row = 0
    try:
        schema = _open_arrow(raw, None).schema
        columns = _Columns(schema, source, name, url)
        wanted = [schema.names.index(column) for column in columns.top]
        for batch in _batches(_open_arrow(raw, wanted)):
            yield from columns.records(batch, row)
            row += batch.num_rows
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _told(raw, row, error) from None


def _open_arrow(raw: Stream, fields: list[int] | None) -> Any:
    import pyarrow as pa

    raw.seek(0)
    is_file = raw.peek(len(_ARROW_FILE)).startswith(_ARROW_FILE)
    options = pa.ipc.IpcReadOptions(included_fields=sorted(fields or []) or None, use_threads=False)
    opened = pa.ipc.open_file if is_file else pa.ipc.open_stream
    return opened(pa.PythonFile(raw, "r"), options=options)


def _batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "get_batch"):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


class _Columns:
    """The columns that a source wants of a table, found once.

    Raises UserError where the table lacks one, or the text's is of another type.
    """

    def __init__(self, schema: Any, source: Source, name: str, url: str) -> None:
        self._source, self._name = source, name
        self.wanted = [source.text_column, *source.metadata.values()]
        keys = ["text_column", *(f"metadata.{target}" for target in source.metadata)]
        self._paths = {
            column: _path(schema, column, f"sources.{name}.{key}", url)
            for key, column in zip(keys, self.wanted, strict=True)
        }
        self.top = {path[0] for path in self._paths.values()}
        kind = _text_type(schema, self._paths[source.text_column], f"sources.{name}.text_column", url)
        self._encoding = (source.encoding or "utf-8") if _is_binary(kind) else "utf-8"

    def records(self, batch: Any, first: int) -> Iterator[Record]:
        """The rows of a batch; `first` is the number of its first row in the file."""
        texts = self._array(batch, self._source.text_column)
        metadata = {target: self._array(batch, column) for target, column in self._source.metadata.items()}
        for row in range(batch.num_rows):
            values = {target: metadata_value(array[row].as_py()) for target, array in metadata.items()}
            kept = {target: value for target, value in values.items() if value is not None}
            yield Record(first + row, self._document(texts[row], kept))

    def _document(self, text: Any, metadata: dict[str, Any]) -> Document | Drop:
        content = text.as_buffer()
        if content is None:
            return Drop("read.no_text", f"{self._source.text_column} is null")
        if content.size > self._source.max_document_bytes:
            return too_large(self._source)
        return document(decode(content.to_pybytes(), self._encoding), self._name, self._source, metadata)

    def _array(self, batch: Any, column: str) -> Any:
        """A column, its texts as bytes: a table may hold some that are no UTF-8."""
        import pyarrow as pa
        import pyarrow.compute as pc

        top, *below = self._paths[column]
        array = batch.column(top)
        for field in below:
            array = pc.struct_field(array, field)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return array.cast(pa.large_binary()) if _is_text(array.type) else array


def _path(schema: Any, column: str, key: str, url: str) -> Sequence[str]:
    """The names that lead to a column: itself, or where there is no such, the fields that its dots part."""
    import pyarrow as pa

    if column in schema.names:
        return [column]
    names = column.split(".")
    at, known = pa.struct(list(schema)), schema.names
    for name in names:
        known = [field.name for field in at] if pa.types.is_struct(at) else []
        if name not in known:
            near = difflib.get_close_matches(column, schema.names, n=1)
            raise UserError(
                f"{key}: {url} has no column {column}"
                + (f"; did you mean {near[0]}?" if near else "")
                + f" (its columns are {', '.join(schema.names)})"
            )
        at = at.field(name).type
    return names


def _text_type(schema: Any, path: Sequence[str], key: str, url: str) -> Any:
    """The type of a column of text. Raises UserError where it is another."""
    import pyarrow as pa

    at = pa.struct(list(schema))
    for name in path:
        at = at.field(name).type
    value = at.value_type if pa.types.is_dictionary(at) else at
    if not _is_text(value):
        raise UserError(f"{key}: {'.'.join(path)} of {url} is {at}, not a text; name another column")
    return value


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return _is_binary(kind) or any(
        test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view)
    )


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return any(test(kind) for test in (types.is_binary, types.is_large_binary, types.is_binary_view))
