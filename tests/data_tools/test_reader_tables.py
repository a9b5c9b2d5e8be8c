"""Parquet and Arrow as they come: the types of columns, what is in memory, and a disk that fails."""

from __future__ import annotations

import datetime
import decimal
import errno
import io
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.document import Document
from data_tools.readers import Source, raw, read_documents
from megatrain.errors import FailedWork
from tests.data_tools.raw_files import CHINESE, ENGLISH, arrow, part_of, read, reasons, texts

MIB = 1 << 20


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_every_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    documents = [ENGLISH, None, CHINESE, "", CHINESE]
    content = pa.table({"text": pa.array(documents, pa.string()).cast(kind)})
    pq.write_table(content, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), content.schema) as writer:
        writer.write_table(content)
    for name in ("a.parquet", "a.arrow"):
        records = read(tmp_path / name)
        assert texts(records) == documents
        assert reasons(records)[1] == "read.no_text"


def test_views(tmp_path: Path) -> None:
    for kind in (pa.string_view(), pa.binary_view()):
        with pa.ipc.new_file(str(tmp_path / "a.arrow"), pa.schema([("text", kind)])) as writer:
            values = [ENGLISH, CHINESE] if kind == pa.string_view() else [ENGLISH.encode(), CHINESE.encode()]
            writer.write_table(pa.table({"text": pa.array(values, kind)}))
        assert texts(read(tmp_path / "a.arrow")) == [ENGLISH, CHINESE]


def test_bytes_of_another_encoding(tmp_path: Path) -> None:
    """A string column says itself that it is UTF-8, though some files break the promise."""
    bad = pa.array([b"ok", b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(2, bad.buffers()[1], bad.buffers()[2])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": text, "gbk": pa.array([CHINESE.encode("gbk")] * 2)}), path)
    records = read(path, metadata={"again": "text"}, encoding="gb18030")
    assert texts(records) == ["ok", "\ufffd\ufffd"]
    assert records[1].found.counts["read.invalid_bytes"] == 1
    assert records[1].found.metadata == {"again": "\ufffd\ufffd"}
    assert texts(read(path, text_column="gbk", encoding="gb18030")) == [CHINESE] * 2
    assert reasons(read(path, text_column="gbk", invalid_bytes="skip")) == ["read.invalid_bytes"] * 2


def test_metadata_is_json(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 5, 1, 12)
    rows = [
        {
            "text": ENGLISH,
            "doc": {"url": "http://x", "at": day, "tags": ["a", None]},
            "score": float("nan"),
            "price": decimal.Decimal("1.50"),
            "raw": b"\xff",
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    wanted = {"url": "doc.url", "doc": "doc", "score": "score", "price": "price", "raw": "raw"}
    (record,) = read(tmp_path / "a.parquet", metadata=wanted)
    assert record.found.metadata == {
        "url": "http://x",
        "doc": {"url": "http://x", "at": "2024-05-01T12:00:00", "tags": ["a", None]},
        "price": "1.50",
        "raw": "\ufffd",
    }
    assert texts(read(tmp_path / "a.parquet", text_column="doc.url")) == ["http://x"]


def test_a_row_group_of_any_size_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """48 MiB in one group, beside another column as large: 20 MiB suffice."""
    rng = random.Random(0)
    documents = [rng.randbytes(6000).hex() for _ in range(4000)]
    content = pa.table({"text": documents, "other": documents})
    pq.write_table(content, tmp_path / "a.parquet", row_group_size=len(documents), use_dictionary=False)
    del content
    before, peak, count = pa.total_allocated_bytes(), 0, 0
    part = part_of(tmp_path / "a.parquet")
    for record in read_documents(part, Source(files=("unused",)), "s"):
        assert isinstance(record.found, Document) and record.found.text == documents[count]
        count += 1
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert count == len(documents)
    assert peak < 20 * MIB, f"{peak / MIB:.1f} MiB"


def test_a_cell_that_is_too_large(tmp_path: Path) -> None:
    documents = ["a", "b" * 2000, "c"]
    path = arrow(tmp_path / "a.arrow", documents)
    assert reasons(read(path, max_document_bytes=1999)) == [None, "read.too_large", None]
    assert texts(read(path, max_document_bytes=2000)) == documents


class _BadSector(io.FileIO):
    """A disk that has lost a place in the middle of the file."""

    def readinto(self, buffer: Any) -> int | None:
        if self.tell() <= 1_500_000 < self.tell() + len(buffer):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl"])
def test_a_disk_that_fails_is_no_damage(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be left out for it, and the message says what it is."""
    documents = [ENGLISH * 1000] * 40
    path = tmp_path / name
    match name:
        case "a.parquet":
            pq.write_table(pa.table({"text": documents}), path, compression="none", use_dictionary=False)
        case "a.arrow":
            arrow(path, documents)
        case _:
            path.write_bytes(b"x" * 3_000_000)
    monkeypatch.setattr(raw, "_open", lambda url: _BadSector(url))
    with pytest.raises(FailedWork, match=r"byte [\d,]+: cannot be read: Input/output error"):
        read(path, on_damage="skip")
