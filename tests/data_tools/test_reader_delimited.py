"""Tables of text and Markdown: what was written comes back, what is malformed is counted."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data_tools.document import Document, Drop
from data_tools.readers import Source, find_files, require_readable
from data_tools.readers.sniff import binary
from megatrain.errors import UserError
from tests.data_tools.raw_files import CHINESE, COMPRESS, ENGLISH, part_of, read, reasons, texts, write

FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\r\0"), min_size=1)


def table(rows: list[list[str]], **options: Any) -> bytes:
    out = io.StringIO()
    csv.writer(out, **options).writerows(rows)
    return out.getvalue().encode()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(FIELDS.filter(lambda text: text.strip() != ""), min_size=1))
@pytest.mark.parametrize("packed", sorted(COMPRESS))
@pytest.mark.parametrize(("name", "options"), [("csv", {}), ("tsv", {"delimiter": "\t"})])
def test_tables_come_back(
    tmp_path: Path, name: str, options: dict[str, str], packed: str, documents: list[str]
) -> None:
    rows = [["id", "text"], *([str(number), text] for number, text in enumerate(documents))]
    content = table(rows, **options)
    assume(binary(content) is None)  # a table of control characters is none
    records = read(write(tmp_path / f"a.{name}{packed}", content), metadata={"n": "id"})
    assert texts(records) == documents
    assert [one.found.metadata for one in records] == [{"n": str(n)} for n in range(len(documents))]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (f'text;id\r\n"{ENGLISH}";1\r\n"{CHINESE}";2\r\n'.encode(), {"delimiter": ";"}),
        (b"\xef\xbb\xbf" + f'id,text\n1,"{ENGLISH}"\n\n2,"{CHINESE}"'.encode(), {}),
        (f'id,text\n1,"{ENGLISH}"\n2,"{CHINESE}"\n'.encode("utf-16"), {}),
        (f'id,text\n1,"{ENGLISH}"\n2,"{CHINESE}"\n'.encode("gb18030"), {"encoding": "gb18030"}),
        (f"text,id\n'{ENGLISH.replace(chr(39), chr(39) * 2)}',1\n'{CHINESE}',2\n".encode(), {"quote": "'"}),
    ],
)
def test_delimiters_quotes_and_encodings(tmp_path: Path, content: bytes, options: dict[str, str]) -> None:
    assert texts(read(write(tmp_path / "a.csv", content), **options)) == [ENGLISH, CHINESE]


def test_quotes_are_text_where_there_is_no_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b'id\ttext\n1\t"Stop," he said\n2\t5" disk\n')
    assert texts(read(path, quote="")) == ['"Stop," he said', '5" disk']


def test_malformed_rows_are_dropped_with_a_reason_and_the_next_ones_stay(tmp_path: Path) -> None:
    lines = [
        "id,text",
        "1,one",
        "2,too,many",
        "3",
        '4,"a"b',
        '5,""',
        '6,"six, 6"',
        "7,\xff",
        '8,"no end',
        "9,x",
    ]
    path = write(tmp_path / "a.csv", "\n".join(lines).encode("latin-1"))
    records = read(path)
    assert texts(records) == ["one", None, None, None, None, "six, 6", "\ufffd", None]
    broken = "read.broken_csv"
    assert reasons(records)[1:5] == [broken, broken, broken, "read.no_text"] and reasons(records)[7] == broken
    assert [one.position for one in records[:3]] == [8, 14, 25]
    assert isinstance(records[1].found, Drop)
    assert records[1].found.detail == "3 fields, and the header has 2"


@pytest.mark.parametrize("filler", ["x" * 50, "x\n" * 25, "x\n" * 500_000])
def test_a_row_that_is_too_large_is_dropped_alone(tmp_path: Path, filler: str) -> None:
    path = write(tmp_path / "a.csv", table([["text"], ["one"], [filler], ["two"]]))
    records = read(path, max_document_bytes=20)
    assert texts(records) == ["one", None, "two"]
    assert reasons(records)[1] == "read.too_large"


def test_a_field_may_be_longer_than_python_allows_by_itself(tmp_path: Path) -> None:
    assert texts(read(write(tmp_path / "a.csv", b"text\n" + b"x" * 300_000))) == ["x" * 300_000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,body\n1,x\n", r"text_column: .*a\.csv has no column text .*header: id, body"),
        (b"id;text\n1;x\n", r"no column text.*set sources\.s\.delimiter to ';'"),
        (b"text,text\n1,x\n", r"has two columns text"),
        (b"Text\nx\n", r"did you mean Text\?"),
        (b"text\n" + b'"a"b\n' * 3, r"none of the first 3 records .*read\.broken_csv"),
    ],
)
def test_a_wrong_header_is_found_before_work(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(UserError, match=message):
        require_readable("s", Source(files=(str(path),)), [part_of(path)])


def test_delimiter_is_for_tables_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"x")
    with pytest.raises(UserError, match=r"sources\.s\.delimiter: is for csv and tsv alone"):
        find_files("s", Source(files=(str(path),), delimiter=";"))


@pytest.mark.parametrize(
    ("content", "text", "metadata"),
    [
        (
            "---\ntitle: A day\ndate: 2024-01-02\n---\n\n# Head\n---\nrest\n",
            "# Head\n---\nrest\n",
            {"t": "A day"},
        ),
        ("---\r\ntitle: A day\r\n---\r\ntext\r\n", "text\r\n", {"t": "A day"}),
        ('+++\ntitle = "A day"\n+++\ntext', "text", {"t": "A day"}),
        ("---\n---\ntext", "text", {}),
        ("---\nno mapping, but prose\n---\ntext", "---\nno mapping, but prose\n---\ntext", {}),
        ("---\na: &a [x]\nb: *a\n---\ntext", "---\na: &a [x]\nb: *a\n---\ntext", {}),
        ("---\na: [\n---\ntext", "---\na: [\n---\ntext", {}),
        ("---\ntitle: x\n", "---\ntitle: x\n", {}),
        ("text\n---\ntitle: x\n---\n", "text\n---\ntitle: x\n---\n", {}),
        ("\ufeff---\ntitle: A day\n---\ntext", "text", {"t": "A day"}),
        ("----\ntext\n----\n", "----\ntext\n----\n", {}),
    ],
)
def test_front_matter_is_no_text(tmp_path: Path, content: str, text: str, metadata: dict[str, str]) -> None:
    for name in ("a.md", "a.markdown.gz"):
        (record,) = read(write(tmp_path / name, content.encode()), metadata={"t": "title"})
        assert isinstance(record.found, Document)
        assert (record.found.text, record.found.metadata) == (text, metadata)


def test_a_folder_of_data_keeps_its_readme_and_labels_out(tmp_path: Path) -> None:
    for name in ("a.jsonl", "README.md", "labels.csv"):
        write(tmp_path / name, b'{"text": "x"}\n')
    names = [Path(part.url).name for part in find_files("s", Source(files=(str(tmp_path),)))]
    assert names == ["a.jsonl"]
    for source in (
        Source(files=(f"{tmp_path}/*.md",)),
        Source(files=(f"{tmp_path}/README.md",)),
    ):
        assert [Path(part.url).name for part in find_files("s", source)] == ["README.md"]
