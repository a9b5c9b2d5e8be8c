"""Web archives: as wget and warcio write them, and what servers send."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from data_tools.document import Document
from data_tools.readers import Record
from data_tools.readers.charset import charset_of
from tests.data_tools.raw_files import (
    CHINESE,
    COMPRESS,
    ENGLISH,
    read,
    reasons,
    response,
    texts,
    warc_record,
    write,
    zstd,
)

FILES = Path(__file__).parent / "files"
PAGE = f"<html><body><p>{ENGLISH}{CHINESE}</p></body></html>".encode()
MIB = 1 << 20


def _page(record: Record) -> str:
    found = record.found
    assert isinstance(found, Document) and found.content is not None and found.text == ""
    return found.content.decode(found.metadata.get("charset", "utf-8"))


def test_an_archive_of_wget() -> None:
    """Chunked, compressed and of several charsets as the server sent them; its own logs are no documents."""
    records = read(FILES / "wget.warc.gz", metadata={"server": "Server", "ip": "WARC-IP-Address"})
    assert reasons(records) == [None] * 5 + ["read.http_status", "read.media_type"]
    english, gbk, chunked, packed = map(_page, records[:4])
    assert "Shall I compare thee to a summer's day?" in english and english.endswith("</html>")
    assert (
        "床前明月光,疑是地上霜。举头望明月,低头思故乡。镕" in gbk
    )  # 镕 is in GBK, not in the GB2312 it says
    assert "白日依山尽,黄河入海流。" in chunked and "\r\n" not in chunked
    assert "To be, or not to be, that is the question." in packed
    assert texts(records)[4] == "Ein Gruß aus Köln"
    found = records[1].found
    assert found.metadata["url"].endswith("/zh-gbk.html") and "<" not in found.metadata["url"]
    assert found.metadata["date"].startswith("2026-") and found.metadata["charset"] == "gb18030"
    assert found.metadata["server"].startswith("BaseHTTP") and found.metadata["ip"] == "127.0.0.1"
    assert [one.found.detail for one in records[5:]] == ["404", "image/png"]


@pytest.mark.parametrize("packed", sorted(COMPRESS))
def test_an_archive_of_warcio(tmp_path: Path, packed: str) -> None:
    """WARC 1.1, with a member for each record or in one."""
    path = FILES / "warcio.warc.gz"
    if packed != ".gz":
        path = write(tmp_path / f"a.warc{packed}", gzip.decompress(path.read_bytes()))
    languages = {"languages": "warc-identified-content-language"}
    records = read(path, metadata=languages)
    assert reasons(records) == [None, None, "read.media_type", None, None]
    pages = [_page(records[n]) for n in (0, 1, 3)]
    assert "Rough winds do shake the darling buds of May," in pages[0]
    assert "春眠不觉晓,处处闻啼鸟。" in pages[1]  # in UTF-16, as its mark says
    assert "资源" in pages[2]
    last = records[4].found
    assert last.text == "But thy eternal summer shall not fade,\n夜来风雨声,花落知多少。"
    assert last.metadata == {
        "url": "http://example.org/text",
        "date": "2024-05-01T12:00:00Z",
        "languages": "eng,zho",
    }
    whole = gzip.decompress((FILES / "warcio.warc.gz").read_bytes())
    assert all(whole[one.position :].startswith(b"WARC/1.1\r\n") for one in records)


def _brotli(content: bytes) -> bytes:
    return pa.Codec("brotli").compress(content, asbytes=True)


def _raw_deflate(content: bytes) -> bytes:
    return zlib.compress(content)[2:-4]


def _chunked(content: bytes) -> bytes:
    parts = [content[at : at + 50] for at in range(0, len(content), 50)]
    return b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (PAGE, {}),
        (gzip.compress(PAGE), {"Content_Encoding": "gzip"}),
        (gzip.compress(PAGE), {"content_encoding": "X-GZIP"}),
        (zlib.compress(PAGE), {"Content_Encoding": "deflate"}),
        (_raw_deflate(PAGE), {"Content_Encoding": "deflate"}),
        (_brotli(PAGE), {"Content_Encoding": "br"}),
        (zstd.compress(PAGE), {"Content_Encoding": "zstd"}),
        (gzip.compress(zlib.compress(PAGE)), {"Content_Encoding": "deflate, gzip"}),
        (_chunked(PAGE), {"Transfer_Encoding": "chunked"}),
        (_chunked(gzip.compress(PAGE)), {"Transfer_Encoding": "chunked", "Content_Encoding": "gzip"}),
        # Decoded by the crawler, which left the headers.
        *[(PAGE, {"Content_Encoding": coding}) for coding in ("gzip", "deflate", "br", "zstd", "identity")],
        (PAGE, {"Transfer_Encoding": "chunked"}),
    ],
)
def test_what_servers_send(tmp_path: Path, body: bytes, headers: dict[str, str]) -> None:
    (record,) = read(write(tmp_path / "a.warc", response(body, **headers)))
    assert isinstance(record.found, Document) and record.found.content == PAGE


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (response(b"%PDF", "application/pdf"), "read.media_type"),
        (response(b"\x00\x01", ""), "read.media_type"),
        (response(PAGE, status="301 Moved"), "read.http_status"),
        (response(b" \r\n"), "read.no_text"),
        (response(b"\x1f\x8b" + b"no gzip", Content_Encoding="gzip"), "read.broken_payload"),
        (response(b"no brotli", Content_Encoding="br"), "read.broken_payload"),
        (warc_record("response", b"gopher", "application/http"), "read.broken_payload"),
        (response(gzip.compress(bytes(3 * MIB)), Content_Encoding="gzip"), "read.too_large"),
        (response(_brotli(bytes(3 * MIB)), Content_Encoding="br"), "read.too_large"),
        (response(zstd.compress(bytes(3 * MIB)), Content_Encoding="zstd"), "read.too_large"),
        (response(bytes(3 * MIB)), "read.too_large"),
    ],
)
def test_what_is_no_document(tmp_path: Path, record: bytes, reason: str) -> None:
    """It is told by reason, and the records after it are read."""
    path = write(tmp_path / "a.warc", record + response(PAGE))
    assert reasons(read(path, max_document_bytes=MIB)) == [reason, None]


def test_records_that_hold_none(tmp_path: Path) -> None:
    other = [warc_record(kind, PAGE, "text/html") for kind in ("warcinfo", "request", "metadata", "revisit")]
    notes = warc_record("resource", b"log", "text/plain", WARC_Target_URI="metadata://gnu.org/wget.log")
    path = write(tmp_path / "a.warc", b"".join(other) + notes + response(PAGE) + b"\r\n\r\n")
    assert reasons(read(path)) == [None]


def test_headers_as_they_come(tmp_path: Path) -> None:
    """Any case, folded, without a carriage return, with bytes that are no UTF-8; of two the first."""
    record = (
        b"WARC/0.18\nwarc-type: Response\nWARC-TARGET-URI: http://a/\xe9\n"
        b"X-Long: one\n  two\nX-Long: three\nContent-Length: %d\n\n%s\n\n"
    )
    content = b"HTTP/2 200\nCONTENT-TYPE: Text/HTML;charset=utf-8\n\n" + PAGE
    path = write(tmp_path / "a.warc", record % (len(content), content))
    (found,) = read(path, metadata={"long": "x-long"})
    assert _page(found) == PAGE.decode()
    assert found.found.metadata["long"] == "one two" and found.found.metadata["url"] == "http://a/\ufffd"


def test_the_payload_type_that_was_found_goes_before_the_one_told(tmp_path: Path) -> None:
    """Common Crawl looks into the page, servers say what they like."""
    told = response(PAGE, "application/octet-stream")
    found = told.replace(b"WARC-Target", b"WARC-Identified-Payload-Type: Text/html\r\nWARC-Target")
    untold = response(b"<!DOCTYPE html><p>x", "")
    assert reasons(read(write(tmp_path / "a.warc", told + found + untold))) == ["read.media_type", None, None]


@pytest.mark.parametrize(
    ("content", "content_type", "charset"),
    [
        (b"<html>", "", None),
        (b"<meta charset=utf-8>", "", "utf-8"),
        (b"<META http-equiv='Content-Type' content='text/html; charset=GB2312'>", "", "gb18030"),
        (b"<meta charset='Big5'>", 'text/html; charset="UTF-8"', "utf-8"),
        (b"<meta charset='Big5'>", "text/html; charset=nonsense", "big5hkscs"),
        *((b"<meta charset=%s>" % name, "", None) for name in (b"zip", b"idna", b"undefined", b"rot13")),
        (b"<meta charset=utf-16>", "", "utf-8"),
        (b"\xef\xbb\xbf<meta charset=big5>", "text/html; charset=gbk", "utf-8"),
        (b"\xff\xfe<\x00", "", "utf-16"),
        (b"\xff\xfe\x00\x00<\x00\x00\x00", "", "utf-32"),
        ("<p>字</p>".encode("utf-16-le"), "text/html; charset=utf-8", "utf-16-le"),
        ("<p>字</p>".encode("utf-32-be"), "text/html; charset=utf-16", "utf-32-be"),
        (b"<p>caf\xe9", "text/html; charset=utf-16", None),
        (b"<meta charset=iso-8859-1>", "", "cp1252"),
        (b'<?xml version="1.0" encoding="Shift_JIS"?>', "", "cp932"),
        (b"<!--" + b" " * 5000 + b"--><meta charset=gbk>", "", None),
    ],
)
def test_the_charset_that_a_browser_would_take(
    content: bytes, content_type: str, charset: str | None
) -> None:
    assert charset_of(content, content_type) == charset


def test_a_page_that_does_not_say_its_encoding_has_that_of_the_source(tmp_path: Path) -> None:
    page = f"<html>{CHINESE}".encode("gbk")
    plain = response(CHINESE.encode("gbk"), "text/plain")
    for name, content in (("a.warc", response(page) + plain), ("a.html", page)):
        records = read(write(tmp_path / name, content), encoding="gbk")
        assert _page(records[0]) == f"<html>{CHINESE}"
        assert texts(records[1:]) == [CHINESE] * (len(records) - 1)
    assert read(tmp_path / "a.warc")[1].found.counts == {"read.invalid_bytes": 1}
