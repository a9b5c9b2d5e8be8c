"""The bundled corpus is what its page says: clean, real, without anyone's legal text."""

import gzip
import json
import re
from pathlib import Path

import pytest

import data_tools.corpus
from data_tools.steps.clean import clean_text

FOLDER = Path(data_tools.corpus.__file__).parent


@pytest.mark.parametrize("name", ["drama", "verse"])
def test_bundled_corpus(name: str) -> None:
    packed = (FOLDER / f"{name}.jsonl.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # No name and no time in the header: the same bytes wherever it is built.
    text = gzip.decompress(packed).decode()
    assert not re.search(r"gutenberg|\betext|copyright|small print", text, re.IGNORECASE)
    documents = [json.loads(line) for line in text.splitlines()]
    assert all(clean_text(document["text"], fix_encoding=False) == document["text"] for document in documents)
    assert len({document["text"] for document in documents}) == len(documents)
    size = sum(len(document["text"].encode()) for document in documents)
    row = next(
        line for line in (FOLDER / "README.md").read_text().splitlines() if f"`{name}.jsonl.gz`" in line
    )
    assert f"| {len(documents):,} | {size:,} |" in row
