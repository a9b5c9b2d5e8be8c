"""Scores are those that `evaluate` wrote, or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatrain.errors import FailedWork, UserError
from megatrain.observe.scores import VERSION, read_scores
from megatrain.records import write_sealed

TREE = {"model": "m", "split": "test", "results": {"model": {"all": {"bits_per_byte": 1.25}}}}


def test_scores_are_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "scores-test.json"
    write_sealed(path, {"version": VERSION, **TREE})
    assert read_scores(path) == {"model": 1.25}
    sound = path.read_text()
    path.write_text(json.dumps(TREE))
    assert read_scores(path) == {"model": 1.25}, "of a version before, without a hash"
    write_sealed(path, {"version": 9, **TREE})
    with pytest.raises(UserError, match="version 9 is newer"):
        read_scores(path)
    for text in (
        sound.replace("1.25", "1.15"),
        sound.replace('"version": 2', '"version": 1'),
        sound.replace("own_xxh3", "own_xxh2"),
        json.dumps({**TREE, "version": 2}),
        json.dumps({**TREE, "results": []}),
        "[]",
    ):
        path.write_text(text)
        with pytest.raises(FailedWork, match="damaged"):
            read_scores(path)
