"""The model of n-grams, its file, and the step that filters and marks by it."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_tools.document import Document, Drop
from data_tools.ngram_model import NgramModel, Table, load_model, model_words, save_model
from data_tools.steps.perplexity import Perplexity
from data_tools.train_ngram_model import train_ngram_model
from data_tools.words import hash_words
from megatrain.errors import UserError
from tests.data_tools.passages import CHINESE_PROSE, ENGLISH_PROSE, reason, run

CORPUS = Path(__file__).parents[2] / "data_tools" / "corpus"


def texts(name: str, count: int) -> list[str]:
    with gzip.open(CORPUS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]


@pytest.fixture(scope="module")
def drama() -> NgramModel:
    return train_ngram_model(texts("drama", 60))


@pytest.fixture(scope="module")
def verse() -> NgramModel:
    return train_ngram_model(texts("verse", 1500))


def shuffled(text: str) -> str:
    parts = list(text) if "。" in text else text.split(" ")
    random.Random(1).shuffle(parts)
    return "".join(parts) if "。" in text else " ".join(parts)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("history", ["", "the", "the cat", "cat the", "dog dog", "zebra the"])
def test_probabilities_of_all_words_sum_to_one(order: int, history: str) -> None:
    corpus = ["the cat saw the dog .", "the dog saw a cat", "a cat sat", "the cat sat on the dog a cat"]
    model = train_ngram_model(corpus, calibrating=corpus, order=order)
    vocabulary = [*["the", "cat", "saw", "dog", "a", "sat", "on"], "unknown"]
    total = sum(model.probabilities(hash_words([*history.split(), word]))[-1].item() for word in vocabulary)
    assert total == pytest.approx(1.0, abs=1e-6)  # The shares are stored as float32.


def test_is_kneser_and_ney_s_by_hand() -> None:
    """Of "a b", "a b", "a c": bigrams less the discount n1 / (n1 + 2 n2), over shares of distinct ones."""
    model = train_ngram_model(["a b", "a b", "a c"], calibrating=["a b"], order=2)
    # Distinct bigrams: (start a) 3 times, (a b) twice, (a c) once: n1 = n2 = 1, so the discount is 1/3.
    # Each word follows one distinct word: a, b, c count 1 of 3; no word counts 2, so the discount is 1/2.
    lower = (1 - 0.5) / 3 + (0.5 * 3 / 3) * (1 / 4)
    expected = (2 - 1 / 3) / 3 + (1 / 3 * 2 / 3) * lower
    assert model.probabilities(hash_words(["a", "b"]))[1].item() == pytest.approx(expected, abs=1e-7)


def test_order_of_words_and_characters_matters(drama: NgramModel, verse: NgramModel) -> None:
    for model, name, start in ((drama, "drama", 200), (verse, "verse", 4000)):
        for text in texts(name, start + 5)[start:]:
            seen = model.perplexity(model_words(text))
            assert model.perplexity(model_words(shuffled(text))) > 1.2 * seen
    own = drama.perplexity(model_words(texts("drama", 201)[200]))
    assert drama.perplexity(model_words(ENGLISH_PROSE)) > own
    assert drama.perplexity(model_words(CHINESE_PROSE)) > 10 * own


def test_case_and_numbers_do_not_matter() -> None:
    assert model_words("In 1914 | the War").tolist() == model_words("in 2023 THE war").tolist()


def test_training_is_a_function_of_the_texts_and_reads_no_more_than_told() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield from texts("verse", 50)

    first, again = (train_ngram_model(endless(), max_words=5_000) for _ in range(2))
    assert [table.keys.tolist() for table in first.grams] == [table.keys.tolist() for table in again.grams]
    assert first.percentiles.tolist() == again.percentiles.tolist()
    for nothing in ([], ["", " | "], ["only one text"]):
        with pytest.raises(UserError, match="at least two texts"):
            train_ngram_model(nothing)


def test_percentiles_are_those_of_the_calibrating_texts() -> None:
    corpus, crawl = texts("verse", 300), texts("verse", 400)[300:]
    model = train_ngram_model(corpus, calibrating=crawl)
    found = sorted(model.percentile(model.perplexity(model_words(text))) for text in crawl)
    assert np.allclose(found, np.linspace(0, 100, len(crawl)), atol=2.0)  # Steps of 1 % among 100 texts.


def test_a_table_finds_each_key_and_no_other() -> None:
    keys = np.unique(np.random.default_rng(0).integers(0, 2**64, 3000, np.uint64))
    keys = np.append(keys[::2], np.arange(2**64 - 9, 2**64 - 1, dtype=np.uint64))  # And one full bucket.
    table = Table(keys, np.arange(len(keys), dtype=np.float32))
    assert table.get(keys[::-1], -1).tolist() == list(range(len(keys)))[::-1]
    assert set(table.get(keys + np.uint64(1), -1)[:1500].tolist()) == {-1.0}


def test_a_file_gives_the_model_back(verse: NgramModel, tmp_path: Path) -> None:
    save_model(verse, tmp_path / "model.npz")
    words = model_words(CHINESE_PROSE)
    back = load_model(tmp_path / "model.npz")
    assert back.probabilities(words).tolist() == verse.probabilities(words).tolist()
    assert back.percentiles.tolist() == verse.percentiles.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_file_that_is_none_is_told(verse: NgramModel, tmp_path: Path) -> None:
    whole = tmp_path / "model.npz"
    save_model(verse, whole)
    content = whole.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.npz").write_text("no model")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    np.savez(tmp_path / "pickle.npz", format_version=np.array([{}], object))
    with np.load(whole) as arrays:
        fields = dict(arrays)
    np.savez(tmp_path / "mixed.npz", **(fields | {"grams_1": fields["grams_1"][1:]}))
    np.savez(tmp_path / "newer.npz", **(fields | {"format_version": np.array(2)}))
    for name in ("cut", "text", "empty", "other", "pickle", "mixed"):
        with pytest.raises(UserError, match=rf"{name}\.npz: no model of n-grams, or damaged") as error:
            load_model(tmp_path / f"{name}.npz")
        assert "pickle" not in str(error.value).replace("pickle.npz", "")
    with pytest.raises(UserError, match="version 2 of the model's format is newer"):
        load_model(tmp_path / "newer.npz")
    with pytest.raises(UserError, match="no such file; make one with"):
        Perplexity(model=str(tmp_path / "missing.npz")).build()


def test_the_step_marks_and_drops(tmp_path: Path) -> None:
    model = str(tmp_path / "model.npz")
    scenes = texts("drama", 260)[200:]
    save_model(train_ngram_model(texts("drama", 60), calibrating=scenes), Path(model))
    marked = [run(Perplexity(model=model).build(), scene) for scene in scenes]
    parts = [found.metadata["part"] for found in marked if isinstance(found, Document)]
    assert {part: parts.count(part) for part in sorted(parts)} == {"head": 20, "middle": 20, "tail": 20}
    garbage = shuffled(ENGLISH_PROSE)
    found = run(Perplexity(model=model, max_perplexity=1000).build(), garbage)
    assert isinstance(found, Drop)
    assert found.reason == "perplexity.too_high"
    percentile = Perplexity(model=model, max_percentile=90)
    assert reason(percentile.build(), garbage) == "perplexity.percentile_too_high"
    assert sum(reason(percentile.build(), scene) is None for scene in scenes) == 54
    assert reason(percentile.build(), "| | |") == "perplexity.no_words"
    english = Perplexity(model=model, max_percentile=90, languages=("en",)).build()
    assert reason(english, garbage, language="en") == "perplexity.percentile_too_high"
    assert reason(english, garbage, language="zh") is None
    with pytest.raises(ValidationError, match="head_below"):
        Perplexity(model=model, head_below=70, tail_from=60)
