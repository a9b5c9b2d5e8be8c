"""The readers: what was written in a format, compression and encoding comes back."""

from __future__ import annotations

import encodings
import io
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data_tools.document import Document, Drop
from data_tools.readers import Source
from data_tools.readers.records import decode
from data_tools.readers.sniff import binary
from data_tools.readers.source import encoding_of
from data_tools.readers.streams import transcoded
from tests.data_tools.raw_files import (
    CHINESE,
    COMPRESS,
    ENGLISH,
    SEPARATOR,
    arrow,
    json_lines,
    parquet,
    read,
    reasons,
    texts,
    wet,
    write,
)

MIB = 1 << 20
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ENCODINGS = sorted(
    {name for one in pkgutil.iter_modules(encodings.__path__) if (name := encoding_of(one.name)) is not None}
)
# A text as files hold them: no half of a pair, no byte order mark (which is no part of the text).
TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), min_size=1), min_size=1
).filter(lambda found: not any(SEPARATOR in text for text in found))


# --- what was written comes back ---


@PROPERTY
@given(documents=TEXTS, packed=st.sampled_from(sorted(COMPRESS)))
@pytest.mark.parametrize("kind", ["txt", "jsonl", "wet"])
def test_streams_come_back(tmp_path: Path, kind: str, documents: list[str], packed: str) -> None:
    content = {
        "txt": lambda: SEPARATOR.join(documents).encode(),
        "jsonl": lambda: json_lines(documents),
        "wet": lambda: wet(documents),
    }[kind]()
    # A text of control characters is none, and a line end before a separator may be CRLF.
    assume(kind == "jsonl" or "\0" not in "".join(documents))  # "0\0" is a digit of UTF-16
    assume(kind != "txt" or (binary(content) is None and "\r" not in "".join(documents)))
    options = {"document_separator": SEPARATOR} if kind == "txt" else {}
    records = read(write(tmp_path / f"a.{kind}{packed}", content), **options)
    assert texts(records) == documents
    assert all(one.found.source == "s" for one in records)
    # The position is that of the content: it leads back to the record.
    for one, text in zip(records, documents, strict=True):
        start = {"txt": text, "jsonl": "{", "wet": "WARC/1.0"}[kind].encode()
        assert content[one.position :].startswith(start)


@PROPERTY
@given(documents=TEXTS)
@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_tables_come_back(tmp_path: Path, kind: str, documents: list[str]) -> None:
    path = (
        parquet(tmp_path / "a.parquet", documents)
        if kind == "parquet"
        else arrow(tmp_path / "a.arrow", documents, kind)
    )
    records = read(path, metadata={"number": "id"})
    assert texts(records) == documents
    assert [one.position for one in records] == list(range(len(documents)))
    assert [one.found.metadata for one in records] == [{"number": n} for n in range(len(documents))]


@pytest.mark.parametrize("packed", sorted(COMPRESS))
def test_pages_come_back_as_bytes(tmp_path: Path, packed: str) -> None:
    page = f'<html><head><meta charset="gb2312"></head><p>{CHINESE}</p></html>'.encode("gb18030")
    (record,) = read(write(tmp_path / f"a.html{packed}", page))
    assert isinstance(record.found, Document)
    assert (record.found.content, record.found.text) == (page, "")
    assert record.found.metadata == {"charset": "gb18030"}
    assert CHINESE in page.decode(record.found.metadata["charset"])


def test_members_and_frames_are_one_file(tmp_path: Path) -> None:
    """What pigz, bgzip, pzstd and `cat` make."""
    for packed, compress in COMPRESS.items():
        path = tmp_path / f"a.jsonl{packed}"
        path.write_bytes(compress(b'{"text": "o') + compress(b'ne"}\n{"te') + compress(b'xt": "two"}'))
        assert texts(read(path)) == ["one", "two"], packed


# --- the formats ---


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_text(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"a.txt{packed}"
    assert texts(read(write(path, "one\n\n二\n".encode()))) == ["one\n\n二\n"]
    assert texts(read(write(path, "one<>二<>".encode()), document_separator="<>")) == ["one", "二", ""]
    content = b"good\nbad \xff\xfe\ngood"
    records = read(write(path, content), document_separator="\n")
    assert texts(records) == ["good", "bad \ufffd\ufffd", "good"]
    assert [one.found.counts["read.invalid_bytes"] for one in records] == [0, 1, 0]
    records = read(path, document_separator="\n", invalid_bytes="skip")
    assert reasons(records) == [None, "read.invalid_bytes", None]
    assert [one.position for one in records] == [0, 5, 12]


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_json_lines(tmp_path: Path, packed: str) -> None:
    lines = [
        '\ufeff{"content": "first"}'.encode(),
        b"",
        b'{"content": "cut',
        b'{"text": "another column"}',
        b'{"content": 5}',
        b"[1, 2]",
        b'{"content": "\xff"}',
        b'{"content": "\\ud83d\\ude00 \\ud800"}',
        b"[" * 100_000,
        b'{"content": "x", "n": ' + b"9" * 5000 + b"}",
    ]
    records = read(write(tmp_path / f"a.jsonl{packed}", b"\r\n".join(lines)), text_column="content")
    assert texts(records) == ["first", None, None, None, None, "\ufffd", "😀 \ufffd", None, None]
    dropped = [(one.found.reason, one.found.detail) for one in records if isinstance(one.found, Drop)]
    assert dropped[:4] == [
        ("read.broken_json", "Invalid control character at, at character 16 of 17"),
        ("read.no_text", "no content, or null; its columns are text"),
        ("read.no_text", "content is a int, not a text"),
        ("read.no_text", "the line is a JSON list, not an object"),
    ]
    assert [reason for reason, _ in dropped[4:]] == ["read.broken_json"] * 2
    assert [records[n].found.counts["read.invalid_bytes"] for n in (0, 5, 6)] == [0, 1, 1]


def test_columns_within_columns_and_metadata(tmp_path: Path) -> None:
    """As dolma and datatrove nest them; a column whose own name has the dot comes first."""
    line = {
        "doc": {"body": ENGLISH, "meta": {"url": "http://x", "n": [1, float("nan"), "\ud800"]}},
        "doc.lang": "en",
        "nothing": None,
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line))
    wanted = {
        "url": "doc.meta.url",
        "n": "doc.meta.n",
        "language": "doc.lang",
        "a": "nothing",
        "b": "doc.x.y",
    }
    (record,) = read(path, text_column="doc.body", metadata=wanted)
    assert record.found.text == ENGLISH
    assert record.found.metadata == {"url": "http://x", "n": [1, None, "\ufffd"], "language": "en"}


@pytest.mark.parametrize(
    ("encoding", "told"),
    [(name, True) for name in ("gb18030", "shift_jis", "utf-16", "utf-16-le", "utf_32_be")]
    + [(name, False) for name in ("utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")],
)
def test_other_encodings(tmp_path: Path, encoding: str, told: bool) -> None:
    """What the config says, or a byte order mark."""
    documents = ["春眠不觉晓\n" if encoding != "shift_jis" else "閑さや岩にしみ入る蝉の声\n", ENGLISH]
    options = {"encoding": encoding} if told else {}
    lines = json_lines(documents).decode()
    for packed in ("", ".gz"):
        found = read(write(tmp_path / f"a.jsonl{packed}", lines.encode(encoding)), **options)
        assert texts(found) == documents
        assert not any(one.found.counts for one in found)
        content = SEPARATOR.join(documents).encode(encoding)
        found = read(write(tmp_path / f"a.txt{packed}", content), document_separator=SEPARATOR, **options)
        assert texts(found) == documents


def test_bytes_that_are_not_of_the_encoding(tmp_path: Path) -> None:
    content = "明月|".encode("gb18030") + b"\xff\xff|" + "故乡".encode("gb18030")
    options = {"document_separator": "|", "encoding": "gb18030"}
    found = read(write(tmp_path / "a.txt", content), **options)
    assert texts(found) == ["明月", "\ufffd\ufffd", "故乡"]
    assert [one.found.counts["read.invalid_bytes"] for one in found] == [0, 1, 0]
    assert reasons(read(tmp_path / "a.txt", invalid_bytes="skip", **options))[1] == "read.invalid_bytes"
    assert texts(read(write(tmp_path / "b.txt", b"\xef\xbb\xbf" + ENGLISH.encode()))) == [ENGLISH]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), encoding=st.sampled_from(ENCODINGS), size=st.integers(1, 7))
def test_any_bytes_can_be_read_in_any_encoding(content: bytes, encoding: str, size: int) -> None:
    """Whatever a page or a user says: at worst it is U+FFFD, and it does not depend on how it is read."""

    class Slow(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[:size])

    found = transcoded(io.BufferedReader(Slow(content)), encoding).read()
    assert found.decode("utf-8") == decode(content, encoding).text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("encoding", ["utf8000", "zip", "rot13", "idna", "undefined"])
def test_no_encoding(encoding: str) -> None:
    with pytest.raises(ValueError, match="no known encoding"):
        Source(files=("a",), encoding=encoding)
