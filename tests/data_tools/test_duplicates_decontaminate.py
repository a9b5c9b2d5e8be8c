"""Decontamination: text of an evaluation set goes, in any form; what merely resembles it stays."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from data_tools.document import Document, Drop
from data_tools.steps.decontaminate import Decontaminate
from megatrain.errors import UserError

ENGLISH = (
    "A farmer keeps hens in three barns and on Monday morning he collects 24 eggs from each of them, "
    "sells half and bakes with the rest; how many eggs does he bake with?"
)
CHINESE = "下列关于细胞膜结构和功能的叙述中，正确的一项是：细胞膜主要由脂质和蛋白质组成，并且具有一定的流动性"
SHORT = "What is the capital of the smallest country in Africa?"
NUMBERS = "one two three four five six seven eight nine"
AROUND = "Some pages of the web quote more than they should. {} Nothing else here is of any note."


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Three sets: JSON lines, compressed ones and parquet."""
    (tmp_path / "farm.jsonl").write_text(
        json.dumps({"question": ENGLISH, "choices": ["24", "36"], "meta": {"by": SHORT}}) + "\n\n"
    )
    with gzip.open(tmp_path / "biology.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"问题": CHINESE}, ensure_ascii=False) + "\n")
    table = pa.table({"q": ["Too short", SHORT], "options": [["a"], [NUMBERS]]})
    parquet.write_table(table, tmp_path / "capitals.parquet")
    return tmp_path


def section(folder: Path, **settings: object) -> Decontaminate:
    names = ("farm.jsonl", "biology.*", "capitals.parquet")
    return Decontaminate(files=tuple(str(folder / name) for name in names), **settings)  # type: ignore[arg-type]


def run(step: object, text: str) -> Document | Drop:
    return step(Document(text, "web"))  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (AROUND.format(ENGLISH), "farm"),
        (AROUND.format(" ".join(ENGLISH.split()[5:18])), "farm"),  # Thirteen words, not the first.
        (AROUND.format(ENGLISH.upper().replace(",", " -- ").replace(" ", "\n")), "farm"),
        (AROUND.format(SHORT), "farm"),  # Ten words, all of them; of the first set that has them.
        (AROUND.format(NUMBERS), "capitals"),
        ("试题集锦。" + CHINESE + "。答案略。", "biology"),
        ("試題。" + CHINESE[10:33].replace("，", "，\n"), "biology"),  # Twenty characters and three signs.
        (AROUND.format("ｈｅ ｃｏｌｌｅｃｔｓ 24 eggs from each of them sells half and bakes with"), "farm"),
    ],
)
def test_a_document_with_a_run_of_an_evaluation_set_is_dropped(sets: Path, text: str, name: str) -> None:
    found = run(section(sets).build(), text)
    assert isinstance(found, Drop)
    assert found.reason == f"decontaminate.{name}"
    assert found.detail and found.detail in text
    assert "Some pages" not in found.detail and "试题" not in found.detail


@pytest.mark.parametrize(
    "text",
    [
        "",
        AROUND.format(" ".join(ENGLISH.split()[5:17])),  # Twelve words.
        AROUND.format(ENGLISH.replace("24", "36").replace("barns", "sheds").replace("half", "some")),
        AROUND.format("What is the capital of the smallest country in Asia?"),
        "试题集锦。" + CHINESE[12:30] + "。答案略。",  # Under twenty characters.
        "Too short",
        "24",
    ],
)
def test_a_document_with_less_is_kept_as_it_is(sets: Path, text: str) -> None:
    for action in ("drop", "cut"):
        assert run(section(sets, action=action).build(), text) == Document(text, "web")


def test_by_option_only_the_common_text_goes(sets: Path) -> None:
    step = section(sets, action="cut").build()
    found = run(step, AROUND.format(ENGLISH) + "\n" + AROUND.format("又：" + CHINESE + "。"))
    assert isinstance(found, Document)
    assert found.text == AROUND.format("?") + "\n" + AROUND.format("又：。")
    assert found.counts == {"decontaminate.farm": 1, "decontaminate.biology": 1}
    assert run(step, ENGLISH.removesuffix("?")) == Drop("decontaminate.farm", ENGLISH.removesuffix("?"))


def test_fields_and_lengths_are_settings(sets: Path) -> None:
    with pytest.raises(UserError, match=r"no record has question or 问题; mend .* \(it has q, options\)"):
        section(sets, fields=("question", "问题")).build()
    files = (str(sets / "farm.jsonl"),)
    question = Decontaminate(files=files, fields=("question",))
    assert isinstance(run(question.build(), AROUND.format(ENGLISH)), Drop)
    assert isinstance(run(question.build(), AROUND.format(SHORT)), Document)
    assert isinstance(run(Decontaminate(files=files, min_ngram=11).build(), AROUND.format(SHORT)), Document)
    words = AROUND.format(" ".join(ENGLISH.split()[5:13]))
    assert isinstance(run(Decontaminate(files=files, ngram=8).build(), words), Drop)
    assert section(sets).load().too_short == {"farm": 2, "biology": 0, "capitals": 2}


def test_sets_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder, text in (("one", ENGLISH), ("two", SHORT)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.txt").write_text(f"A heading\r\n\r\n{text}\r\n")
    step = Decontaminate(files=(str(tmp_path / "*" / "test.txt"),)).build()
    for name, text in (("one/test", ENGLISH), ("two/test", SHORT)):
        found = run(step, AROUND.format(text))
        assert isinstance(found, Drop) and found.reason == f"decontaminate.{name}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"q": "x"}\n{"q": \n', "a.jsonl:2: no JSON object; mend it, or leave it out"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: no JSON object"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: cannot be read as an evaluation set"),
        ("a.parquet", b"no parquet", "a.parquet: cannot be read as an evaluation set"),
        ("a.txt", b"\xff\xfe\xfa", "a.txt: cannot be read as an evaluation set"),
        ("a.jsonl", b'{"q": "  "}\n{"q": 3}\n', "the evaluation set a holds no text; leave it out"),
        ("a.txt", b"", "the evaluation set a holds no text"),
        ("a.csv", b"q\n", "a.csv: unknown kind of file; known are .jsonl"),
    ],
)
def test_bad_sets_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Decontaminate(files=(str(tmp_path / name),)).build()
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"missing\*: no such file"):
        Decontaminate(files=(str(tmp_path / "missing*"),)).evaluation_sets()
    with pytest.raises(ValidationError, match=r"min_ngram \(9\) must not be above ngram \(8\)"):
        Decontaminate(files=("a",), ngram=8, min_ngram=9)


def test_many_ngrams_of_random_texts_are_all_found_and_nothing_else(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"w{number:x}" for number in random.integers(0, 2**40, count).tolist())

    texts = [words(int(count)) for count in random.integers(8, 60, 300)]
    (tmp_path / "set.txt").write_text("\n\n".join(texts))
    contamination = Decontaminate(files=(str(tmp_path / "set.txt"),)).load()
    for text in texts:
        [hit] = contamination.find(f"{words(40)} {text} {words(3)}")
        assert hit.span[1] - hit.span[0] == len(text)
    assert contamination.find(words(20_000)) == []
