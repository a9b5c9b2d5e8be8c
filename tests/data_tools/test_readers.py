"""The readers: every kind of file, every kind of damage."""

import gzip
from pathlib import Path

import pytest

from data_tools.config import Source
from data_tools.readers import Raw, Unreadable, find_files, read_documents
from megatrain.errors import UserError


def _read(path: Path, content: bytes, **options: object) -> list[Raw | Unreadable]:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return list(read_documents(path, Source(files=("unused",), **options)))


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_text(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"a.txt{packed}"
    assert _read(path, "one\n\n二\n".encode()) == [Raw("one\n\n二\n", False)]
    assert _read(path, "one<>二<>".encode(), document_separator="<>") == [
        Raw("one", False),
        Raw("二", False),
        Raw("", False),
    ]
    assert _read(path, b"good\nbad \xff\xfe\ngood", document_separator="\n") == [
        Raw("good", False),
        Raw("bad \ufffd\ufffd", True),
        Raw("good", False),
    ]


def test_a_separator_is_found_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_tools.readers._CHUNK_BYTES", 3)
    found = _read(tmp_path / "a.txt", b"abcde<|end|>fg<|end|>h", document_separator="<|end|>")
    assert [raw.text for raw in found if isinstance(raw, Raw)] == ["abcde", "fg", "h"]


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
    ]
    assert _read(tmp_path / f"a.jsonl{packed}", b"\r\n".join(lines), text_column="content") == [
        Raw("first", False),
        Unreadable("broken_json"),
        Unreadable("no_text"),
        Unreadable("no_text"),
        Unreadable("no_text"),
        Raw("\ufffd", True),
        Raw("😀 \ud800", False),
        Unreadable("broken_json"),
    ]


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    for content in (
        gzip.compress(b"text" * 1000)[:-12],
        b"not gzip",
        gzip.compress(bytes(range(256)))[:15] + b"\xff" * 40,
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.txt\.gz: compressed file damaged"):
            list(read_documents(path, Source(files=("unused",))))


def test_finding_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "sub/c.txt", "d.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def names(*patterns: str) -> list[str]:
        found = find_files("s", Source(files=tuple(str(tmp_path / pattern) for pattern in patterns)))
        return [str(path.relative_to(tmp_path)) for path in found]

    assert names("") == ["a.jsonl.gz", "b.txt", "sub/c.txt"]
    assert names("**/*.txt", "b.txt", "a.jsonl.gz") == ["b.txt", "sub/c.txt", "a.jsonl.gz"]
    for patterns, message in (
        (["nothing*"], "sources.s.files: .*nothing.*: no such file"),
        (["d.pdf"], "unknown kind of file; known are .txt"),
    ):
        with pytest.raises(UserError, match=message):
            names(*patterns)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="every file is empty"):
        names("empty.txt")
