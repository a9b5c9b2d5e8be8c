"""The sample for training is a function of the documents: no order, no number of hands, bounded."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.collected import as_keys
from data_tools.tokenizer import sample as module
from data_tools.tokenizer.sample import TrainingSample, beginning
from data_tools.tokenizer.section import TokenizerTraining

Documents = list[tuple[str, str]]


@dataclass
class Taken:
    """A sample and its texts, sorted."""

    sample: TrainingSample
    texts: list[str]


def taken(section: TokenizerTraining, *parts: Documents) -> Taken:
    """Of parts that hold documents of one source or several; as the stage offers and reads them."""
    sample = TrainingSample(section)
    for number, part in enumerate(parts):
        keys = as_keys(b"".join(xxhash.xxh3_128_digest(text.encode()) for _, text in part))
        sizes = np.array([len(text.encode()) for _, text in part], np.int64)
        for source in {source for source, _ in part}:
            rows = np.array([row for row, (name, _) in enumerate(part) if name == source], np.int64)
            sample.offer(source, number, rows, keys[rows], sizes[rows])
    texts = [
        beginning(part[row][1]) for number, part in enumerate(parts) for row in sample.rows(number).tolist()
    ]
    assert sample.documents == len(texts)
    return Taken(sample, sorted(texts))


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
    parts = [[documents[number] for number in order[hand::hands]] for hand in range(hands)]
    divided = taken(section, *parts)
    assert divided.texts == expected.texts
    assert divided.sample.bytes_by_source == expected.sample.bytes_by_source


@pytest.mark.parametrize("quota", [1, 500, 5000, 10**9])
def test_all_that_is_needed_and_none_more(quota: int) -> None:
    texts = taken(TokenizerTraining(training_bytes=quota), DOCUMENTS).texts
    sizes = [len(text.encode()) for text in texts]
    if quota == 10**9:
        assert texts == sorted(text for _, text in DOCUMENTS)
    else:
        # One of them is the last by its hash, which fills the quota.
        assert any(sum(sizes) - size < quota <= sum(sizes) for size in sizes)
        fewer = taken(TokenizerTraining(training_bytes=max(1, quota // 2)), DOCUMENTS).texts
        assert not Counter(fewer) - Counter(texts)


def test_weights_are_shares_of_the_text() -> None:
    weights = {"web": 1.0, "verse": 3.0}
    sample = taken(TokenizerTraining(training_bytes=4000, weights=weights), DOCUMENTS).sample
    sizes = sample.bytes_by_source
    assert 1000 <= sizes["web"] < 1200 and 3000 <= sizes["verse"] < 3100
    none = taken(TokenizerTraining(training_bytes=4000, weights={"web": 1.0, "verse": 0.0}), DOCUMENTS)
    assert none.sample.bytes_by_source["verse"] == 0 and not [text for text in none.texts if "詩" in text]
    # A source that has less gives what it has, and the others no more for it.
    little = taken(TokenizerTraining(training_bytes=40_000, weights=weights), DOCUMENTS).sample
    assert little.bytes_by_source["verse"] == sum(len(t.encode()) for s, t in DOCUMENTS if s == "verse")
    assert 10_000 <= little.bytes_by_source["web"] < 10_200


def test_a_huge_document_gives_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 10)
    texts = ["白日依山盡", "a" * 100, "short"]
    assert taken(TokenizerTraining(), [("web", text) for text in texts]).texts == [
        "a" * 10,
        "short",
        "白日依",
    ]
