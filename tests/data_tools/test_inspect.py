"""Inspection tells what is there; verification tells what is no longer."""

import io
import json
from pathlib import Path

import pytest

from data_tools.config import DataConfig
from data_tools.inspect import inspect, made, verify
from data_tools.prepare import prepare
from data_tools.progress import Progress
from megatrain.errors import FailedWork, UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = [f"Poem {'abc'[n % 3] * n} by {chr(97 + n % 26)}\nline\n" for n in range(1, 80)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = DataConfig(
        output=str(tmp_path / "out"),
        workers=1,
        sources={"a": {"files": [str(tmp_path / "a.jsonl")]}},
        split={"validation": 0.2, "test": 0.0},
        tokenizer={"vocab_size": 300},
    )
    return prepare(config, Progress(io.StringIO())).folder


def test_inspection(folder: Path) -> None:
    found = inspect(folder, documents=5)
    assert sum(row.documents for row in found.statistics) == 79
    assert {row.split for row in found.statistics} == {"train", "validation"}
    assert all(document.text.startswith("Poem ") for document in found.documents)
    assert inspect(folder, documents=5) == found
    assert [row.split for row in inspect(folder / "train").statistics] == ["train"]
    text = found.text()
    assert found.fingerprints["train"] in text and found.documents[0].doc_id in text
    assert json.loads(made(folder))["counts"]["a"]["kept"] == 79


def test_verification(folder: Path) -> None:
    assert "whole: 2 shards in train, validation" in verify(folder)
    shard = folder / "train" / "shard-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[-200] ^= 4
    shard.write_bytes(content)
    with pytest.raises(FailedWork, match=r"train/shard-00000\.arrow: shard damaged"):
        verify(folder)
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match="cut short"):
        verify(folder)
    with pytest.raises(UserError, match="no prepared dataset there"):
        inspect(folder / "tokenizer")
