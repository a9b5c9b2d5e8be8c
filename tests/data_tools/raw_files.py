"""Raw files for the tests of the readers: documents written in every format and compression."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.document import Document, Drop
from data_tools.readers import InputPart, Record, Source, read_documents

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    # With a checksum, as the zstd command does.
    ".zst": lambda content: zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1}),
    ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
}
SEPARATOR = "<|end|>"
ENGLISH = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate.\n"
CHINESE = "床前明月光,疑是地上霜。\n举头望明月,低头思故乡。\n"


def write(path: Path, content: bytes) -> Path:
    """The content, compressed as the name says."""
    path.write_bytes(COMPRESS.get(path.suffix, bytes)(content))
    return path


def part_of(path: Path) -> InputPart:
    """The whole of a file."""
    return InputPart(str(path), path.stat().st_size, str(path.stat().st_mtime_ns))


def read(path: Path, **options: Any) -> list[Record]:
    """Its records."""
    return list(read_documents(part_of(path), Source(files=("unused",), **options), "s"))


def texts(records: Sequence[Record]) -> list[str | None]:
    """The texts of the documents, and None for what is none."""
    return [one.found.text if isinstance(one.found, Document) else None for one in records]


def reasons(records: Sequence[Record]) -> list[str | None]:
    """Why records are none, and None for those that are documents."""
    return [one.found.reason if isinstance(one.found, Drop) else None for one in records]


def json_lines(documents: Sequence[str], **more: Any) -> bytes:
    """A line a document; every second in ASCII."""
    lines = [json.dumps({"text": text, **more}, ensure_ascii=bool(n % 2)) for n, text in enumerate(documents)]
    return "".join(line + "\n" for line in lines).encode()


def table(documents: Sequence[str]) -> pa.Table:
    """A row a document."""
    return pa.table({"id": pa.array(range(len(documents))), "text": pa.array(documents, pa.string())})


def parquet(path: Path, documents: Sequence[str], rows: int = 2) -> Path:
    """Some rows a group."""
    pq.write_table(table(documents), path, row_group_size=rows)
    return path


def arrow(path: Path, documents: Sequence[str], kind: str = "file") -> Path:
    """An Arrow file or stream of small batches."""
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    content = table(documents)
    with new(str(path), content.schema) as writer:
        writer.write_table(content, max_chunksize=2)
    return path


def warc_record(kind: str, content: bytes, content_type: str, **headers: str) -> bytes:
    """One record."""
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(content)}",
    ]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content + b"\r\n\r\n"


def response(body: bytes, content_type: str = "text/html", status: str = "200 OK", **headers: str) -> bytes:
    """The record of an HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    return warc_record(
        "response", head + body, "application/http; msgtype=response", WARC_Target_URI="http://example.org/"
    )


def wet(documents: Sequence[str]) -> bytes:
    """Records of texts, with one before them that is none."""
    first = warc_record("warcinfo", b"software: x\r\n", "application/warc-fields")
    return first + b"".join(warc_record("conversion", text.encode(), "text/plain") for text in documents)
