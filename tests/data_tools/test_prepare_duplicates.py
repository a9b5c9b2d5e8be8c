"""Duplicates in a whole preparation: near ones go, repeated paragraphs are cut, and nothing else decides
which.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.config import DataConfig
from data_tools.prepare import prepare
from data_tools.progress import Progress
from data_tools.stats.report import report
from data_tools.where import Local
from megatrain.data.dataset import TokenDataset
from megatrain.data.shard import read_shard
from megatrain.data.tokenizer import Tokenizer
from megatrain.durable import hash_file

QUIET = Progress(io.StringIO())
FOOTER = "All rights are reserved by the people who wrote this page long ago and nobody else.\n"


def sentences(rng: np.random.Generator, count: int) -> str:
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 5)) for _ in range(400)]
    return "\n".join(" ".join(rng.choice(words, 25)) + "." for _ in range(count)) + "\n"


def edited(text: str) -> str:
    """One word in a hundred is another: a Jaccard index of the 5-grams above 0.9."""
    words = text.split(" ")
    for at in range(50, len(words), 100):
        words[at] = "changed"
    return " ".join(words)


@pytest.fixture
def texts() -> dict[str, list[str]]:
    rng = np.random.default_rng(3)
    first = [sentences(rng, 12) for _ in range(30)]
    poems = ["床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 3 + str(n) for n in range(2)]
    other = [sentences(rng, 12) + FOOTER for _ in range(20)]
    return {
        "first": [*first, *poems[:1]],
        "second": [*(edited(text) for text in first[:10]), first[11], *other, poems[1]],
    }


def config_of(folder: Path, texts: dict[str, list[str]], **changes: Any) -> DataConfig:
    for name, mine in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in mine))
    return DataConfig.model_validate(
        {
            "output": str(folder / "out"),
            "where": {"workers": 1},
            "sources": {name: {"files": [str(folder / f"{name}.jsonl")]} for name in texts},
            "duplicates": {"near": {}, "paragraphs": {"min_units": 8}},
            "split": {"validation": 0.1, "test": 0},
            "tokenizer": {"vocab_size": 400},
            **changes,
        }
    )


def stored(folder: Path) -> dict[str, list[str]]:
    tokenizer = Tokenizer.load(folder)
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*/*.arrow")):
        for document in read_shard(path) if path.parent.name in ("train", "validation", "test") else ():
            found.setdefault(document.source, []).append(tokenizer.decode(document.tokens[:-1]))
    return {name: sorted(mine) for name, mine in found.items()}


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def test_near_copies_go_and_paragraphs_are_cut(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    prepared = prepare(config_of(tmp_path, texts), QUIET)
    found = stored(prepared.folder)
    assert found["first"] == sorted(texts["first"])
    kept = found["second"]
    assert len(kept) == 20 and sum(text.endswith(FOOTER) for text in kept) == 1, "one page keeps the footer"
    assert sorted(text.removesuffix(FOOTER) for text in kept) == sorted(
        text.removesuffix(FOOTER) for text in texts["second"][11:31]
    )
    counts = prepared.splits["train"].made["counts"]["second"]
    assert counts == {
        "duplicates.exact": 1,
        "duplicates.near": 11,
        "kept": 20,
        "kept_bytes": sum(len(text.encode()) for text in kept),
        "read": 32,
    }
    report = json.loads((prepared.folder / "prepared.json").read_text())["duplicates"]
    assert report["removed"] == 12 and report["clusters_by_size"] == {"2": 12}
    assert report["removed_by_sources"] == [{"kept": "first", "removed": "second", "documents": 12}]


def test_neither_memory_nor_workers_nor_tasks_decide(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    """Also with substrings, and where a document loses all that it has."""
    texts["second"].append(FOOTER + FOOTER)
    both = {"near": {"bands": 20, "rows": 5}, "paragraphs": {"min_units": 8}, "substrings": {"length": 20}}
    config = config_of(tmp_path, texts, duplicates=both)
    one = prepare(config, QUIET).folder
    change = {"output": str(tmp_path / "two"), "where": Local(workers=2), "memory_mib": 1, "task_mib": 1}
    two = prepare(config.model_copy(update=change), QUIET).folder
    assert files_of(one) == files_of(two)
    found = stored(one)
    # The poem repeats itself, and loses that.
    assert found["first"][:-1] == sorted(texts["first"][:-1]) and len(found["first"][-1]) < 60
    assert sum(FOOTER.strip() in text for text in found["second"]) <= 1


def test_an_added_source_loses_what_is_there_already(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    """As if it had come last from the beginning, but for the tokenizer."""
    alone = config_of(tmp_path, {"first": texts["first"]})
    before = files_of(prepare(alone, QUIET).folder)
    prepared = prepare(config_of(tmp_path, texts, append=True), QUIET)
    assert all(files_of(prepared.folder)[name] == found for name, found in before.items() if "shard" in name)
    whole = prepare(config_of(tmp_path, texts, output=str(tmp_path / "whole")), QUIET)
    assert stored(prepared.folder) == stored(whole.folder)
    counts = prepared.splits["train"].made["counts"]
    assert counts == whole.splits["train"].made["counts"]
    for split in prepared.splits:
        TokenDataset.open(prepared.folder / split).verify()


def test_what_evaluation_sets_were_sought_is_told(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    """In the manifest, also when a source is added later; a text that is found costs the document."""
    questions = [texts["first"][3][:200], "too short", "nobody has written this " * 5]
    (tmp_path / "exam.jsonl").write_text("".join(json.dumps({"q": text}) + "\n" for text in questions))
    steps = [{"clean": {}}, {"decontaminate": {"files": [str(tmp_path / "exam.jsonl")]}}]
    alone = config_of(tmp_path, {"first": texts["first"]}, steps=steps)
    for config in (alone, config_of(tmp_path, texts, steps=steps, append=True)):
        prepared = prepare(config, QUIET)
        assert texts["first"][3] not in stored(prepared.folder)["first"]
        told = report(prepared.folder)
        assert told.evaluation_sets.keys() == {"exam"}
        found = told.evaluation_sets["exam"]
        assert (found.texts, found.too_short) == (3, 1)
        # In the second source stands an edited copy, which has the passage too.
        assert found.documents == len(config.sources)
        assert "documents with its text" in told.text()
