"""What the readers promise of any file: cut into parts, far too large, damaged, or broken in many places."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tracemalloc
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools import corpus
from data_tools.readers import InputPart, Source, read_documents, require_few_broken, require_readable, split
from data_tools.readers.records import pieces
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError
from tests.data_tools.raw_files import (
    CHINESE,
    COMPRESS,
    ENGLISH,
    arrow,
    json_lines,
    parquet,
    part_of,
    read,
    reasons,
    texts,
    warc_record,
    wet,
    write,
)

MIB = 1 << 20
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# --- cut into parts ---


@PROPERTY
@given(
    documents=st.lists(st.sampled_from(["", "x", CHINESE, ENGLISH, "y" * 500])),
    at_most=st.integers(1, 300),
    end=st.sampled_from([b"", b"\n", b"\r\n\n"]),
)
def test_the_parts_of_lines_have_the_records_of_the_whole(
    tmp_path: Path, documents: list[str], at_most: int, end: bytes
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(documents) + b"{" + end)
    _require_same_in_parts(path, at_most, max_document_bytes=400)


@PROPERTY
@given(documents=st.lists(st.sampled_from(["x", CHINESE, ENGLISH]), min_size=1), at_most=st.integers(1, 3000))
def test_the_parts_of_parquet_have_the_records_of_the_whole(
    tmp_path: Path, documents: list[str], at_most: int
) -> None:
    _require_same_in_parts(parquet(tmp_path / "a.parquet", documents), at_most)


def _require_same_in_parts(path: Path, at_most: int, **options: Any) -> None:
    source = Source(files=("unused",), **options)
    whole = part_of(path)
    parts = split(whole, source, "s", at_most)
    assert parts[0].start == 0 and parts[-1].stop == whole.bytes
    assert all(before.stop == part.start for before, part in itertools.pairwise(parts))
    assert all(part.bytes <= at_most for part in parts)
    found = [record for part in parts for record in read_documents(part, source, "s")]
    assert found == list(read_documents(whole, source, "s"))


def test_what_cannot_be_cut_stays_whole(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "a.txt", "a.warc", "a.html", "a.arrow"):
        part = InputPart(name, 1000, "0")
        assert split(part, Source(files=(name,)), "s", 10) == [part]
    part = InputPart("a.jsonl", 1000, "0")
    assert split(part, Source(files=("a.jsonl",), encoding="gb18030"), "s", 10) == [part]
    assert len(split(part, Source(files=("a.jsonl",), encoding="utf8"), "s", 10)) == 100
    # Of a file in UTF-16, which only its first bytes tell, the first part is the whole.
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines([ENGLISH, CHINESE]).decode().encode("utf-16"))
    source = Source(files=("unused",))
    found = [
        texts(list(read_documents(part, source, "s"))) for part in split(part_of(path), source, "s", 100)
    ]
    assert found[0] == [ENGLISH, CHINESE] and len(found) > 2 and not any(found[1:])


def test_the_hash_of_a_part_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = json_lines([f"{n}" for n in range(10)])
    path = write(tmp_path / "a.jsonl", content)
    whole = part_of(path)
    assert whole.content_hash() == hash_file(path)
    first, second = split(whole, Source(files=("unused",)), "s", len(content) - 1)
    assert len({first.content_hash(), second.content_hash(), whole.content_hash()}) == 3
    other = write(tmp_path / "b.jsonl", content[second.start :])
    assert second.content_hash() == part_of(other).content_hash()


# --- too large, in bounded memory ---


class _InChunks(io.BufferedReader):
    """Gives what it is made of, chunk by chunk."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        super().__init__(io.BytesIO())
        self._chunks = [chunk for chunk in chunks if chunk]

    def read1(self, size: int = -1) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.text("ab<>", max_size=6).map(str.encode)),
    separator=st.sampled_from([b"<", b"<>", b"<<", b"<a<b"]),
    at_most=st.integers(0, 12),
)
def test_pieces_are_those_of_split(chunks: list[bytes], separator: bytes, at_most: int) -> None:
    content = b"".join(chunks)
    found = list(pieces(_InChunks(chunks), separator, at_most, 100))
    parts = content.split(separator)
    assert [piece.content for piece in found] == [part if len(part) <= at_most else None for part in parts]
    starts = [100 + sum(len(part) + len(separator) for part in parts[:n]) for n in range(len(parts))]
    assert [piece.position for piece in found] == starts


@pytest.mark.parametrize("packed", sorted(COMPRESS))
@pytest.mark.parametrize("kind", ["jsonl", "txt", "separated", "html", "wet"])
def test_a_giant_is_counted_and_never_in_memory(tmp_path: Path, kind: str, packed: str) -> None:
    """A record of 32 MiB (1 GiB in a plain line) where 1 MiB is allowed: 4 MiB suffice; the next is read."""
    size = 1024 * MIB if (kind, packed) == ("jsonl", "") else 32 * MIB
    path = tmp_path / f"a.{'txt' if kind == 'separated' else kind}{packed}"
    heads = {
        "wet": warc_record("conversion", b"", "text/plain").replace(b"Length: 0", b"Length: %d" % size)[:-4]
    }
    tails = {
        "jsonl": b'\n{"text": "after"}',
        "separated": b"<>after",
        "wet": b"\r\n\r\n" + warc_record("conversion", b"after", "text/plain"),
    }
    compress = COMPRESS[packed]
    with path.open("wb") as file:
        file.write(compress(heads.get(kind, b"x" * 8192)))
        if packed:
            file.write(compress(b"x" * (16 * MIB)) * (size // (16 * MIB)))
        else:
            file.truncate(file.tell() + size)
            file.seek(0, io.SEEK_END)
        file.write(compress(tails.get(kind, b"")))
    options = {"document_separator": "<>"} if kind == "separated" else {}
    read(write(tmp_path / f"small.jsonl{packed}", b"{}"))  # what is imported once
    tracemalloc.start()
    try:
        records = read(path, max_document_bytes=MIB, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reasons(records) == ["read.too_large"] + [None] * (kind in tails)
    assert texts(records)[1:] == ["after"] * (kind in tails)
    assert "1,048,576 bytes (max_document_bytes)" in records[0].found.detail
    assert peak < 4 * MIB, f"{peak / MIB:.1f} MiB"


def test_a_frame_that_swells_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """One frame, not many: 256 MiB out of 24 kB."""
    path = write(tmp_path / "a.jsonl.zst", b"x" * (256 * MIB) + b'\n{"text": "after"}')
    assert path.stat().st_size < MIB // 8
    tracemalloc.start()
    try:
        assert texts(read(path, max_document_bytes=MIB)) == [None, "after"]
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


# --- damage ---

DAMAGED = [f"{how} a.jsonl{packed}" for how in ("cut", "flipped") for packed in COMPRESS if packed]
DAMAGED += ["cut a.wet", "cut a.wet.gz", "cut a.parquet", "flipped a.parquet", "cut a.arrow"]


@cache
def _corpus() -> list[str]:
    """Two MB of drama and verse, English and Chinese by turns."""
    found = []
    for name in ("drama", "verse"):
        with gzip.open(Path(corpus.__file__).parent / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            found.append([json.loads(line)["text"] for line in itertools.islice(lines, 350)])
    return [text for pair in zip(*found, strict=False) for text in pair]


def _damaged(folder: Path, name: str) -> Path:
    """A file of many documents, of which the last third is cut off, or with wrong bytes there."""
    path, whole = folder / name.removeprefix("cut ").removeprefix("flipped "), _corpus()
    match path.name.split(".")[1]:
        case "parquet":
            parquet(path, whole, 50)
        case "arrow":
            arrow(path, whole, "stream")
        case "wet":
            write(path, wet(whole))
        case _:
            write(path, json_lines(whole))
    content = bytearray(path.read_bytes())
    at = len(content) * 2 // 3
    if name.startswith("cut"):
        del content[at:]
    else:
        content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_names_the_file_and_the_place(tmp_path: Path, name: str) -> None:
    path, whole = _damaged(tmp_path, name), _corpus()
    with pytest.raises(
        FailedWork, match=rf"{path.name}: (byte|row) [\d,]+: .*; replace the file, or set sources.s.on_"
    ):
        read(path)
    *before, last = read(path, on_damage="skip")
    assert last.found.reason == "read.damaged"
    found = [text for text in texts(before) if text is not None]
    # All but bzip2 tell a wrong byte late: up to then they make other text of it.
    late = name.startswith("flipped a.jsonl") and not name.endswith("bz2")
    sure = len(found) // 2 if late else len(found)
    assert found[:sure] == whole[:sure], "what came before the damage is as it was"
    # The table of contents of a parquet file stands at its end: without it nothing is found.
    assert sure > len(whole) // 4 or (name == "cut a.parquet" and not before)
    assert read(path, on_damage="skip") == [*before, last], "the same each time"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt.gz", b"not gzip", "byte 0: the compressed data after it is damaged"),
        ("a.txt.gz", gzip.compress(ENGLISH.encode(), mtime=0)[:-5], "ended before the end-of-stream marker"),
        ("a.txt.zst", ENGLISH.encode(), "damaged"),
        ("a.txt.xz", ENGLISH.encode(), "damaged"),
        ("a.txt.bz2", ENGLISH.encode(), "damaged"),
        ("a.parquet", b"", "row 0: the file is damaged or cut short"),
        ("a.parquet", ENGLISH.encode(), "magic bytes not found"),
        ("a.arrow", b"", "row 0"),
        ("a.arrow", ENGLISH.encode(), "row 0"),
        ("a.arrow", b"ARROW1\0\0" + ENGLISH.encode(), "row 0"),
        ("a.warc", ENGLISH.encode(), "byte 0: no WARC record begins here, but b'Shall I compare the"),
        (
            "a.warc",
            b"WARC/1.0\r\nWARC-Type: response\r\n\r\n",
            "Content-Length is missing",
        ),
        ("a.warc", b"WARC/1.0\r\nContent-Length: -5\r\n\r\n", "Content-Length is -5"),
        ("a.warc", b"WARC/1.0\r\nWARC-Type: resp", "the headers of a WARC record have no end"),
        ("a.warc", b"WARC/1.0\r\n" + b"X: y\r\n" * 200_000, "the headers of a WARC record have no end"),
    ],
)
def test_no_such_format(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FailedWork) as error:
        read(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.warc", "a.warc.gz", "a.wet.xz"):
        (tmp_path / name).touch()
        if not name.endswith("xz"):
            assert read(tmp_path / name) == []
        assert read(write(tmp_path / name, b"")) == []


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"x")
    part = part_of(path)
    path.unlink()
    # Not damage: nothing is skipped for it.
    with pytest.raises(FailedWork, match=r"a\.txt: cannot be read: no such file"):
        list(read_documents(part, Source(files=("unused",), on_damage="skip"), "s"))


# --- limits ---


def test_few_may_be_broken() -> None:
    dropped = {"read.broken_json": 3, "read.damaged": 1, "read.media_type": 50, "length.too_short": 7}
    for limit, read_records in ((None, 1), (4, 100), (0.04, 100), (0.5, 8)):
        require_few_broken("s", Source(files=("a",), max_broken=limit), read_records, dropped)
    for limit, read_records in ((0, 100), (3, 100), (0.039, 100), (0.5, 7)):
        with pytest.raises(FailedWork, match=r"4 of \d+ records are broken \(read.broken_json 3, read"):
            require_few_broken("s", Source(files=("a",), max_broken=limit), read_records, dropped)


def test_a_wrong_column_is_seen_before_work_begins(tmp_path: Path) -> None:
    empty, path = write(tmp_path / "0.jsonl", b""), write(tmp_path / "a.jsonl", json_lines([ENGLISH]))

    def look(path: Path, **options: Any) -> None:
        require_readable("s", Source(files=("a",), **options), [part_of(empty), part_of(path)])

    look(path)
    with pytest.raises(UserError, match=r"none of the first 1 records .*: no body, or null; its col"):
        look(path, text_column="body")
    table = parquet(tmp_path / "a.parquet", [ENGLISH])
    look(table)
    with pytest.raises(UserError, match=r"s.text_column: .*parquet has no column texts; did you mean text\?"):
        look(table, text_column="texts")
    with pytest.raises(UserError, match=r"s.metadata.url: .*has no column link \(its columns are id, text\)"):
        look(table, metadata={"url": "link"})
    with pytest.raises(UserError, match="is int64, not a text"):
        look(table, text_column="id")
    look(write(tmp_path / "b.jsonl", b"{broken\n" + json_lines([ENGLISH])))
    with pytest.raises(UserError, match="damaged"):
        look(write(tmp_path / "b.parquet", b"no table"))
