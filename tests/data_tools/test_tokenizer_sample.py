"""The sample for training is a function of the documents: no order, no number of hands, bounded."""

from collections import Counter

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.tokenizer import sample as module
from data_tools.tokenizer.sample import TrainingSample
from data_tools.tokenizer.section import TokenizerTraining


def doc_id(text: str) -> bytes:
    return xxhash.xxh3_128_digest(text.encode())


def taken(section: TokenizerTraining, documents: list[tuple[str, str]]) -> TrainingSample:
    sample = TrainingSample(section)
    for source, text in documents:
        sample.add(source, doc_id(text), text)
    return sample


DOCUMENTS = [("web", f"page {number} of the web " * (1 + number % 7)) for number in range(300)]
DOCUMENTS += [("verse", f"第{number}首詩，白日依山盡。\n") for number in range(200)]


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(60)),
    hands=st.integers(1, 4),
    quota=st.integers(1, 4000),
    weighted=st.booleans(),
)
def test_no_order_and_no_number_of_hands_matters(
    order: list[int], hands: int, quota: int, weighted: bool
) -> None:
    documents = DOCUMENTS[:40] + DOCUMENTS[-20:]
    weights = {"web": 1.0, "verse": 3.0} if weighted else None
    section = TokenizerTraining(training_bytes=quota, weights=weights)
    expected = taken(section, documents)
    whole = TrainingSample(section)
    for hand in range(hands):
        whole.merge(taken(section, [documents[number] for number in order[hand::hands]]))
    assert list(whole.texts()) == list(expected.texts())
    assert whole.bytes_by_source == expected.bytes_by_source


@pytest.mark.parametrize("quota", [1, 500, 5000, 10**9])
def test_all_that_is_needed_and_none_more(quota: int) -> None:
    texts = list(taken(TokenizerTraining(training_bytes=quota), DOCUMENTS).texts())
    sizes = [len(text.encode()) for text in texts]
    if quota == 10**9:
        assert Counter(texts) == Counter(text for _, text in DOCUMENTS)
    else:
        # Its texts come in the order of their hashes: the last is the one that fills the quota.
        assert sum(sizes[:-1]) < quota <= sum(sizes)


def test_weights_are_shares_of_the_text() -> None:
    weights = {"web": 1.0, "verse": 3.0}
    sample = taken(TokenizerTraining(training_bytes=4000, weights=weights), DOCUMENTS)
    sizes = sample.bytes_by_source
    assert 1000 <= sizes["web"] < 1200 and 3000 <= sizes["verse"] < 3100
    none = taken(TokenizerTraining(training_bytes=4000, weights={"web": 1.0, "verse": 0.0}), DOCUMENTS)
    assert none.bytes_by_source["verse"] == 0 and not [text for text in none.texts() if "詩" in text]
    # A source that has less gives what it has, and the others no more for it.
    little = taken(TokenizerTraining(training_bytes=40_000, weights=weights), DOCUMENTS)
    assert little.bytes_by_source["verse"] == sum(len(t.encode()) for s, t in DOCUMENTS if s == "verse")
    assert 10_000 <= little.bytes_by_source["web"] < 10_200


def test_what_is_not_wanted_need_not_be_read() -> None:
    section = TokenizerTraining(training_bytes=2000)
    sample, asked = TrainingSample(section), 0
    for source, text in DOCUMENTS:
        if sample.wants(source, doc_id(text)):
            asked += 1
            sample.add(source, doc_id(text), text)
    assert list(sample.texts()) == list(taken(section, DOCUMENTS).texts())
    assert len(list(sample.texts())) <= asked < len(DOCUMENTS) / 2


def test_a_huge_document_gives_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 10)
    texts = ["白日依山盡", "a" * 100, "short"]
    kept = set(taken(TokenizerTraining(), [("web", text) for text in texts]).texts())
    assert kept == {"白日依", "a" * 10, "short"}
