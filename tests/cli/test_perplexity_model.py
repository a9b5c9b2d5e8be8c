"""`megatrain data perplexity-model` makes what the step can be built with, of files as sources have them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from data_tools.document import Document, Drop
from data_tools.steps.perplexity import Perplexity
from megatrain.cli import main

GOOD = "The ship left the harbour in the morning, and the people on the quay waved to it for a long time."


def test_the_model_judges_as_it_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"{GOOD} It was the {n} of May. {GOOD}" for n in range(60)]
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts)
    (tmp_path / "good.jsonl").write_text(lines)
    model = tmp_path / "good.npz"
    words = ["data", "perplexity-model", str(tmp_path / "good.jsonl"), "--out", str(model)]
    assert main([*words, "--text-column", "body"]) == 0
    assert "at 90 %" in capsys.readouterr().out
    step = Perplexity(model=str(model), max_perplexity=10).build()
    assert isinstance(step(Document(texts[7], "s")), Document)
    assert isinstance(step(Document("zebra quartz jinx vow foxes waltz " * 9, "s")), Drop)
    assert main(words) == 2  # no field is called text
    assert main(["data", "perplexity-model", str(tmp_path / "no.jsonl"), "--out", str(model)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert re.search(r"needs at least two texts .*; left out: read\.no_text 60", told[-2])
    assert told[-1].startswith(f"megatrain: {tmp_path}/no.jsonl: no such file")


def test_what_cannot_be_read_is_counted_and_wrong_calls_are_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good.jsonl"
    lines = [json.dumps({"text": f"{GOOD} {n}. {GOOD}"}) for n in range(20)]
    good.write_text("\n".join([*lines, '{"text": "cut', "[]"]) + "\n")
    words = ["data", "perplexity-model", str(good), "--out"]
    assert main([*words, str(tmp_path / "good.npz")]) == 0
    assert "left out: read.broken_json 1" in capsys.readouterr().err
    for out, more, message in (
        (tmp_path, (), "is a folder; name a file"),
        (tmp_path / "no" / "x.npz", (), "there is no folder"),
        (good / "x.npz", (), "there is no folder"),
        (tmp_path / "x.npz", ("--order", "99"), "invalid choice: 99"),
        (tmp_path / "x.npz", ("--max-words", "0"), "'0' is not a whole number of at least 1"),
    ):
        with suppress(SystemExit):
            assert main([*words, str(out), *more]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "x.npz").exists()
