"""Which files of a folder are read: what is no text of the format is dropped with its reason and counted."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_tools import prepare
from data_tools.config import DataConfig
from data_tools.document import Document, Drop
from data_tools.progress import Progress
from data_tools.readers import Source, find_files, look_for_files, read_documents, require_readable
from data_tools.readers.sniff import binary
from megatrain.data.manifest import read_manifest
from megatrain.errors import UserError

QUIET = Progress(io.StringIO())
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
LINE = json.dumps({"text": "a rose is a rose"}).encode() + b"\n"


def read(source: Source) -> dict[str, str]:
    """Of each file its text, or the reason why it has none."""
    found: dict[str, str] = {}
    for part in find_files("s", source):
        for _, one in read_documents(part, source, "s"):
            name = Path(part.url).name
            if isinstance(one, Drop):
                found[name] = one.reason
            else:
                found[name] = one.text or (one.content or b"").decode("utf-8", "replace")[:9]
    return found


def test_of_a_folder_of_pages_only_pages_are_read(tmp_path: Path) -> None:
    for name, content in (
        ("a.html", b"<p>no html tag"),
        ("b.php", b"<?xml version='1.0'?>\n<!-- x -->\n<!DOCTYPE html><p>b"),
        ("c", b"\xef\xbb\xbf\n<html lang=en><p>c"),
        ("d.xhtml", b"<html><p>d"),
        ("style.css", b"a { color: red }"),
        ("notes.txt", b"about the pages"),
        ("wide", "<html><p>wide".encode("utf-16-le")),
        ("f.html", PNG),
        ("g.png", PNG),
        ("h.js", b"let a = '<html>'"),
        ("_hidden.html", b"<p>x"),
    ):
        (tmp_path / name).write_bytes(content)
    found = read(Source(files=(str(tmp_path),), format="html"))
    other, no_text = "read.other_format", "read.binary"
    assert {name: found[name] for name in ("style.css", "notes.txt", "h.js")} == dict.fromkeys(
        ("style.css", "notes.txt", "h.js"), other
    )
    assert found["f.html"] == found["g.png"] == no_text
    assert set(found) - {"f.html", "g.png", "style.css", "notes.txt", "h.js"} == {
        "a.html",
        "b.php",
        "c",
        "d.xhtml",
        "wide",
    }
    assert all(found[name].lstrip("\ufeff\n").startswith("<") for name in ("a.html", "b.php", "c", "wide"))
    # A pattern says that they are pages; that they are no text it cannot say.
    named = read(Source(files=(f"{tmp_path}/*.*",), format="html"))
    assert named["style.css"] == "a { color" and named["g.png"] == no_text


@pytest.mark.parametrize(
    ("form", "content"),
    [("jsonl", LINE), ("warc", b"WARC/1.0\r\nContent-Length: 0\r\n\r\n\r\n"), ("txt", b"a")],
)
def test_other_names_are_read_where_their_content_is_of_the_format(
    tmp_path: Path, form: Any, content: bytes
) -> None:
    (tmp_path / "part-0").write_bytes(content)
    (tmp_path / "image").write_bytes(PNG)
    (tmp_path / "README.md").write_bytes(b"about it")
    found = read(Source(files=(str(tmp_path),), format=form))
    assert found["image"] in ("read.binary", "read.other_format")
    assert found["README.md"] == ("about it" if form == "txt" else "read.other_format")
    assert found.get("part-0") == {"jsonl": "a rose is a rose", "txt": "a", "warc": None}[form]


def test_what_is_binary() -> None:
    for content in (
        PNG,
        b"\x1f\x8b\x08text",
        bytes(range(256)) * 9,
        b"\0\1\2\3" * 50,
        b"%PDF-1.7\nx",
        b"BZh9\xff",
    ):
        assert binary(content), content
    for text in (
        "plain",
        "a\0b" + "c" * 999,
        "\x1b[1mlog\x1b[0m",
        "BZh is a name",
        "RIFF and ID3",
        "日本語",
        "",
    ):
        assert binary(text.encode()) is None, text
    for encoding in ("utf-16", "utf-16-le", "utf-32-be", "latin-1", "utf-8-sig"):
        assert binary("déjà vu, a text with letters".encode(encoding)) is None, encoding
    assert binary("中文文本没有字节零".encode("gb18030")) is None


def test_what_is_left_out_of_a_folder_is_counted_and_shown(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "_temporary").mkdir(parents=True)
    words = [
        "alone",
        "bright",
        "cold",
        "dark",
        "early",
        "far",
        "good",
        "high",
        "idle",
        "just",
        "kind",
        "late",
        "mild",
        "near",
        "open",
        "pale",
        "quiet",
    ]
    rows = [{"text": f"{n}: {' '.join(words[n % 17 :])} {' '.join(words[: n % 13])}"} for n in range(99)]
    (raw / "a.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    for name in ("_SUCCESS", ".a.crc", "b.css", "c.css", "d", "line\nbreak.jsonl"):
        (raw / name).write_bytes(LINE)
    (raw / os.fsdecode(b"latin-\xe9.jsonl")).write_bytes(LINE)
    (raw / "link").symlink_to(tmp_path)
    os.mkfifo(raw / "fifo.jsonl")
    left_out = look_for_files("s", Source(files=(str(raw),))).left_out
    assert left_out == {
        "folders whose names begin with . or _": 1,
        "links to folders": 1,
        "of unknown kind": 1,
        "of unknown kind (.css)": 2,
        "that are no regular files": 1,
        "whose names begin with . or _": 2,
        "with names that are no UTF-8 or hold control characters": 2,
    }
    told = io.StringIO()
    config = DataConfig.model_validate(
        {
            "output": str(tmp_path / "out"),
            "where": {"workers": 1},
            "sources": {"s": {"files": [str(raw)], "metadata": {"language": "lang"}}},
            "split": {"validation": 0.2, "test": 0.0},
            "tokenizer": {"vocab_size": 300},
        }
    )
    (tmp_path / "raw" / "b.jsonl").write_bytes(PNG)
    folder = prepare.prepare(config, Progress(told)).folder
    assert "sources.s: left out of its folders: 1 folders whose names begin" in told.getvalue()
    assert "warning: sources.s.metadata.language: no record has lang\n" in told.getvalue()
    made = read_manifest(folder / "train").made
    assert made["left_out"]["s"] == left_out and made["metadata"]["s"] == {"language": 0}
    assert (made["counts"]["s"]["read"], made["counts"]["s"]["read.binary"]) == (100, 1)


def test_a_file_that_cannot_be_taken_is_refused_for_its_own_reason(tmp_path: Path) -> None:
    def refused(path: Path, **options: Any) -> str:
        source = Source(files=(str(path),), **options)
        with pytest.raises(UserError) as told:
            require_readable("s", source, find_files("s", source))
        assert "\n" not in str(told.value)
        return str(told.value)

    for name, content, said in (
        ("a.json", b'[\n {"text": "a"},\n {"text": "b"}\n]\n', "is one JSON array, not JSON Lines"),
        ("b.json", b'[{"text": "a"}]', "is one JSON array, not JSON Lines"),
        ("c.json", b'{\n "text": "a"\n}\n', "is JSON objects over several lines each"),
        ("d.jsonl", LINE.replace(b"text", b"body"), "no text, or null; its columns are body"),
        ("e.txt", PNG, "a PNG image; name files of text"),
        ("f.jsonl", b"\x1f\x8b" + PNG, "gzip data; set compression: gz"),
    ):
        (tmp_path / name).write_bytes(content)
        assert said in refused(tmp_path / name)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "_a.jsonl").write_bytes(LINE)
    assert "(left out: 1 whose names begin with . or _); name the files" in refused(hidden)
    odd = tmp_path / "odd\n.txt"
    odd.write_bytes(b"x")
    assert "rename the file" in refused(odd)
    os.mkfifo(tmp_path / "fifo.txt")
    assert "fifo.txt: no regular file" in refused(tmp_path / "fifo.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    assert "loop.txt: cannot be looked at: Too many levels of symbolic links" in refused(
        tmp_path / "loop.txt"
    )


def texts(path: Path, separator: str) -> list[str]:
    source = Source(files=(str(path),), document_separator=separator)
    (part,) = find_files("s", source)
    found = [record.found for record in read_documents(part, source, "s")]
    assert all(isinstance(one, Document) for one in found)
    return [one.text for one in found if isinstance(one, Document)]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", ["\n---\n", "\r\n---\r\n"])
def test_a_separator_is_one_whatever_the_line_ends(
    tmp_path: Path, separator: str, end: str, mark: bytes
) -> None:
    path = tmp_path / "a.txt"
    for text in ("one\n\n1\n---\ntwo\n---\nthree", "---\none\n\n1\n---\ntwo\n---\nthree\n---"):
        path.write_bytes(mark + text.replace("\n", end).encode())
        assert texts(path, separator) == [f"one{end}{end}1", "two", "three"]
    # Of any size, in memory of a chunk, and where the separator lies across two of them.
    for size in range((1 << 18) - 9, (1 << 18) + 3):
        path.write_bytes(mark + b"x" * size + f"{end}---{end}y".encode())
        assert texts(path, separator) == ["x" * size, "y"]


def test_a_separator_that_does_not_occur_is_counted(tmp_path: Path) -> None:
    for name, content in (("a", "one\n---\ntwo"), ("b", "no such line"), ("c", "one\n---")):
        (tmp_path / f"{name}.txt").write_text(content)
    source = Source(files=(str(tmp_path),), document_separator="\n---\n")
    counts = [
        record.found.counts["read.no_separator"]
        for part in find_files("s", source)
        for record in read_documents(part, source, "s")
        if isinstance(record.found, Document)
    ]
    assert counts == [0, 0, 1, 0]
