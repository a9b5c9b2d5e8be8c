"""The configs that come with the project are read, and one of them names every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_tools.config import load_config
from data_tools.steps import STEPS

FOLDER = Path(__file__).parents[2] / "configs" / "data"
PRESETS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_it_is_read_and_says_nothing_twice(path: Path) -> None:
    config = load_config(path)
    assert config.version == 2
    assert config.model_validate(config.model_dump(mode="json")) == config


def test_one_of_them_names_every_setting_and_every_step() -> None:
    text = (FOLDER / "web.yaml").read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    config = load_config(FOLDER / "web.yaml")
    assert set(tree) == set(type(config).model_fields)
    for name in ("duplicates", "split", "tokenizer", "shards"):
        assert set(tree[name]) == set(type(getattr(config, name)).model_fields), name
    given: set[str] = set().union(*tree["sources"].values())
    assert given == set(type(config.sources["crawl"]).model_fields)
    assert all(f"- {step}: " in text for step in STEPS)


def test_the_steps_that_are_commented_out_are_steps() -> None:
    lines = (FOLDER / "web.yaml").read_text(encoding="utf-8").splitlines()
    steps: list[Any] = [yaml.safe_load(line.strip("# -")) for line in lines if line.startswith("  # - ")]
    assert len(steps) == 3
    for step in steps:
        ((name, settings),) = step.items()
        STEPS[name].model_validate(settings)
