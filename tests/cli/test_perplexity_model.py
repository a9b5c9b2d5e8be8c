"""`megatrain data perplexity-model` makes what the step can be built with, of files as sources have them."""

from __future__ import annotations

import json
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
    assert "no such file" in capsys.readouterr().err
