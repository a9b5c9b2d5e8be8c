"""All steps together: on the bundled corpus, in lists, and what holds of each."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_tools.document import Document, Drop, Step
from data_tools.steps import STEPS
from data_tools.words import split_words
from tests.data_tools.passages import CHINESE_PROSE, CLASSICAL_PROSE, ENGLISH_PROSE

ROOT = Path(__file__).parents[2]
WEB = ("clean", "length", "language", "boilerplate", "gopher_repetition", "gopher_quality", "c4_quality")
SPAM = {
    "gopher_quality.stop_words": "Cheap watches online, replica watches, best price, free shipping, now! "
    * 6,
    "gopher_repetition.top_2_gram": "click here to win, click here to play, click here to see, click here",
    "gopher_quality.words_with_letter": "The price of it is 100 | 200 | 300 | 400 | 500 | 600 with that. "
    * 4,
    "fineweb_quality.lines_with_end": "\n".join(f"{n} ways to be better than the rest" for n in "abcdefg"),
    "gopher_repetition.duplicate_lines": "点击这里立即领取优惠券\n" * 9,
}


def texts(name: str) -> list[str]:
    with gzip.open(ROOT / "data_tools" / "corpus" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def through(steps: list[Step], text: str, source: str = "test") -> Document | Drop:
    """What a list of steps makes of a text."""
    document: Document | Drop = Document(text, source)
    for step in steps:
        if isinstance(document, Drop):
            break
        document = step(document)
    return document


def kept(steps: list[Step], found: list[str]) -> float:
    dropped = Counter(out.reason for text in found if isinstance(out := through(steps, text), Drop))
    return 1 - sum(dropped.values()) / len(found)


def web_list(**settings: dict[str, Any]) -> list[Step]:
    names = (*WEB, "fineweb_quality", "pii")
    return [STEPS[name].model_validate(settings.get(name, {})).build() for name in names]


@pytest.mark.parametrize("text", [ENGLISH_PROSE, CHINESE_PROSE, CLASSICAL_PROSE])
def test_prose_goes_through_a_whole_list_unchanged(text: str) -> None:
    found = through(web_list(language={"keep": ["en", "zh"]}), text)
    assert isinstance(found, Document)
    assert found.text == text
    assert not found.counts


def test_the_bundled_drama_is_kept() -> None:
    """English: a few scenes in which a line or the names of the speakers come again and again go."""
    assert kept(web_list(), texts("drama")[::3]) >= 0.9


def test_the_bundled_verse_is_kept() -> None:
    """Chinese of the Tang: with the published rules poems of 50 characters and more, but for their length in
    sentences; with rules for short texts nearly all."""
    poems = texts("verse")[::8]
    long = [poem for poem in poems if len(split_words(poem)) >= 50]
    assert len(long) > 0.4 * len(poems)
    assert kept(web_list(c4_quality={"min_sentences": None}), long) >= 0.85
    short: dict[str, dict[str, Any]] = {
        "gopher_quality": {"min_words": 20, "min_stop_words": None},
        "c4_quality": {"min_sentences": 2},
        "fineweb_quality": {"max_short_lines": None},
    }
    assert kept(web_list(**short), poems) >= 0.97


@pytest.mark.parametrize("reason", SPAM)
def test_spam_goes_by_the_rule_that_is_for_it(reason: str) -> None:
    step = STEPS[reason.split(".")[0]].model_validate({}).build()
    found = step(Document(SPAM[reason], "web"))
    assert isinstance(found, Drop)
    assert found.reason == reason


def test_a_step_remembers_nothing_between_documents() -> None:
    passages = [ENGLISH_PROSE, CHINESE_PROSE, *SPAM.values(), CLASSICAL_PROSE, ENGLISH_PROSE]
    steps = web_list()
    forwards = [through(steps, text) for text in passages]
    backwards = [through(steps, text) for text in reversed(passages)]
    assert forwards == backwards[::-1]
    assert forwards == [through(web_list(), text) for text in passages]


HOSTILE = [
    *(sign * 1_000_000 for sign in (".", "1", "a", "1.", "a@", "#", "(", "\n", " ", "世", "。")),
    *(sign * 1_000_000 + "x" for sign in (".", "\n ", "1-")),
    *("1" * 1000 + sign * 1_000_000 for sign in ("(", "-")),
    *(
        sign * 100_000
        for sign in ("-----BEGIN PRIVATE KEY-----", "eyJ-", "sk-", "[1", "1::", "a | ", "2001:")
    ),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_no_text_makes_a_step_hang(number: int) -> None:
    """Each takes well under a second; where the time grows with the square of the length, hours."""
    for name in (*WEB, "fineweb_quality", "pii"):
        STEPS[name].model_validate({}).build()(Document(HOSTILE[number], "web"))


@pytest.mark.parametrize("name", STEPS)
def test_every_setting_and_every_reason_is_in_the_documentation(name: str) -> None:
    documentation = (ROOT / "docs" / "data" / "steps.md").read_text(encoding="utf-8")
    section = documentation.split(f"\n## {name}\n")[1].split("\n## ")[0]
    for field in STEPS[name].model_fields:
        assert f"`{field}`" in section, field
    code = (ROOT / "data_tools" / "steps" / f"{name}.py").read_text(encoding="utf-8")
    for reason in re.findall(rf'Drop\(\s*"{name}\.(\w+)"', code):
        assert f"`{reason}`" in section, reason


@pytest.mark.parametrize("name", STEPS)
def test_defaults_come_back_from_their_own_json(name: str) -> None:
    required: dict[str, Any] = {"bad_words": {"file": "words.txt"}, "perplexity": {"model": "model.npz"}}
    required["decontaminate"] = {"files": ["evals/*.jsonl"]}
    section = STEPS[name].model_validate(required.get(name, {}))
    assert STEPS[name].model_validate(section.model_dump(mode="json")) == section
    assert STEPS[name].model_config["extra"] == "forbid"
