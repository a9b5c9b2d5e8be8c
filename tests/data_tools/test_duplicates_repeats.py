"""Repeated paragraphs and substrings: all but the earliest go, and nothing that is not repeated."""

import gzip
import json
import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.duplicates import cutting
from data_tools.duplicates.choosing import REMOVED
from data_tools.duplicates.columns import Batch, write_batches
from data_tools.duplicates.corpus import Corpus, Part, RepeatKeys, write_ids, write_repeat_keys
from data_tools.duplicates.cutting import cut
from data_tools.duplicates.hashing import UInts
from data_tools.duplicates.near import Signer
from data_tools.duplicates.paragraphs import ParagraphKeyer
from data_tools.duplicates.repeating import find_repeats, plan_repeats
from data_tools.duplicates.settings import Near, Paragraphs, Substrings
from data_tools.duplicates.substrings import SubstringKeyer
from megatrain.errors import FailedWork
from tests.data_tools.finding import PLENTY, Outcome, Shard, find, ids_of

CORPUS = Path(cutting.__file__).parents[1] / "corpus"
LICENCE = "This page may be copied under the terms of a licence that nobody has read."
COOKIES = "本网站使用小甜饼干来改善您的浏览体验，继续浏览即表示您同意。"
SIGNER = Signer(Near())


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Hundreds of tiny tables: that they survive a power cut is another test's law."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@cache
def paragraphs(min_units: int = 10) -> ParagraphKeyer:
    return ParagraphKeyer(Paragraphs(min_units=min_units))


@cache
def substrings(length: int = 20) -> SubstringKeyer:
    return SubstringKeyer(Substrings(length=length))


def poems() -> list[str]:
    with gzip.open(CORPUS / "verse.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def test_a_paragraph_stays_where_it_is_first(tmp_path: Path) -> None:
    shards = [
        Shard(0, [f"A first page.\n\n{LICENCE}\n\nIts end.", f"{COOKIES}\n正文在这里。\n{COOKIES}"]),
        Shard(1, [f"Another.\n\n{LICENCE.upper()}\n\nMore of it.\nShort.", "Short.\nlast\n" + LICENCE]),
        Shard(2, [COOKIES + "\n\n" + LICENCE]),
    ]
    found = find(tmp_path / "work", shards, keyers={"paragraphs": paragraphs()})
    assert found.kept == [
        [shards[0].texts[0], f"{COOKIES}\n正文在这里。\n"],
        ["Another.\n\nMore of it.\nShort.", "Short.\nlast\n"],
        [""],
    ]
    assert found.repeats == 5


def test_what_a_removed_document_says_is_no_earlier_place(tmp_path: Path) -> None:
    text = "".join(poems()[:20])
    shards = [Shard(0, [text]), Shard(1, [f"{text}\n{LICENCE}"]), Shard(2, [f"Something else.\n{LICENCE}"])]
    found = find(tmp_path / "work", shards, signer=SIGNER, keyers={"paragraphs": paragraphs()})
    assert found.kept == [shards[0].texts, [], shards[2].texts]


LINES = ["a b", "A, b!", "c d e", "x", "", "山水", "山。水"]


def result(shards: list[Shard], memory_bytes: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        keyers = {"paragraphs": paragraphs(2)}
        return find(Path(folder) / "work", shards, keyers=keyers, memory_bytes=memory_bytes)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.lists(st.sampled_from(LINES), max_size=5).map("\n".join), max_size=4), max_size=4),
    st.sampled_from([200, 700, PLENTY]),
)
def test_each_paragraph_stays_once_in_any_cut_of_the_work(texts: list[list[str]], memory: int) -> None:
    shards = [Shard(source, of_source) for source, of_source in enumerate(texts[:3])]
    found = result(shards, memory)
    seen: set[str] = set()
    repeats = 0
    documents = [
        (source, tuple(ids_of([text])[0].tolist()), text)
        for source, shard in enumerate(shards)
        for text in dict.fromkeys(shard.texts)
    ]
    expected = {}
    for source, _, text in sorted({text: one for one in reversed(documents) for text in [one[2]]}.values()):
        lines = []
        for line in text.split("\n"):
            folded = "".join(c for c in line.lower() if c.isalpha())
            if len(folded) > 1 and folded in seen:
                repeats += 1
            else:
                lines.append(line)
                if len(folded) > 1:
                    seen.add(folded)
        expected[source, text] = [line for line in lines if line]
    assert found.repeats == repeats
    kept = {
        (source, tuple(line for line in text.split("\n") if line))
        for source, of_source in enumerate(found.kept)
        for text in of_source
    }
    assert kept == {(source, tuple(lines)) for (source, _), lines in expected.items()}


def test_a_shared_passage_goes_but_for_its_ends(tmp_path: Path) -> None:
    texts = poems()
    passage = "".join(texts[100:110])
    shards = [
        Shard(0, ["".join(texts[:10]) + passage + "".join(texts[20:25])]),
        Shard(1, ["".join(texts[30:35]) + passage.replace("。", " ") + "".join(texts[40:50])]),
    ]
    keyer = substrings(40)
    found = find(tmp_path / "work", shards, keyers={"substrings": keyer})
    assert found.kept[0] == shards[0].texts
    [left] = found.kept[1]
    own = "".join(texts[30:35]), "".join(texts[40:50])
    assert left.startswith(own[0]) and left.endswith(own[1])
    rest = left[len(own[0]) : -len(own[1])]
    units = len(SIGNER._split([rest]).hash)
    # Winnowing chooses one of every 20 neighbouring runs of 21 units: up to 19 units stay at each end.
    assert 0 < units <= 2 * 19


def test_what_is_shorter_than_half_the_length_is_never_cut(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    own = ["".join(map(chr, random.integers(0x4E00, 0x9FA0, 300).tolist())) for _ in range(6)]
    shared = own[5][:20]
    texts = [text[:150] + shared + text[150:] for text in own[:5]]
    found = find(tmp_path / "work", [Shard(0, texts)], keyers={"substrings": substrings(40)})
    assert found.kept == [texts] and found.repeats == 0


@given(st.lists(st.text(st.sampled_from("ab 世"), max_size=120), max_size=4))
def test_of_every_run_of_the_length_a_key_is_chosen_whatever_is_around(texts: list[str]) -> None:
    keyer = substrings(12)
    keys = keyer.keys(texts)
    for number, text in enumerate(texts):
        alone = keyer.keys([text])
        here = keys.document == number
        assert np.array_equal(alone.key, keys.key[here]) and np.array_equal(alone.at, keys.at[here])
        units = len(keyer._split([text]).hash)
        for begin in range(units - 12 + 1):
            assert ((alone.at >= begin) & (alone.at <= begin + 5)).any()
        assert (alone.at + 7 <= units).all()


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    memory = 4 << 20
    for documents in (5_000, 20_000):
        folder = tmp_path / str(documents)
        folder.mkdir()
        random = np.random.default_rng(0)
        parts = []
        for number in range(4):
            count = documents // 4
            ids = random.integers(1, 2**64, (count, 2), dtype=np.uint64)
            document, at = np.divmod(np.arange(count * 30), 30)
            key = random.integers(1, 2**64, count * 30, dtype=np.uint64)
            key[::3] = 7  # A paragraph in all documents, many times.
            key[1::6] = random.permutation(key[1::6] % np.uint64(5000))
            write_ids(folder / f"ids-{number}", ids)
            write_repeat_keys(folder / f"keys-{number}", ids, [RepeatKeys(key, document, at)])
            write_batches(folder / f"removed-{number}", REMOVED, [removed(number * count, ids[::2])])
            parts.append(Part(0, count, folder / f"ids-{number}", paragraphs=folder / f"keys-{number}"))
        paths = tuple(folder / f"removed-{number}" for number in range(4))
        tracemalloc.start()
        tasks = plan_repeats(Corpus(("a",), tuple(parts)), "paragraphs", paths, memory, folder)
        repeated = sum(find_repeats(task) for task in tasks)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(tasks) > 1 and repeated > documents / 2 * 10
        assert peak < memory, (documents, peak)


def removed(first_row: int, ids: UInts) -> Batch:
    rows = np.arange(len(ids)) * 2 + first_row
    return {"row": rows, "high": ids[:, 0], "low": ids[:, 1], "kept": rows}


def test_paragraphs_and_substrings_are_cut_together(tmp_path: Path) -> None:
    texts = poems()
    passage = "".join(texts[:6]).replace("\n", "")
    shards = [
        Shard(0, [f"{LICENCE}\n{passage}"]),
        Shard(1, [f"Its start\n{LICENCE}\nMiddle, {passage}\nits end"]),
    ]
    found = find(tmp_path / "work", shards, keyers={"paragraphs": paragraphs(), "substrings": substrings(40)})
    [left] = found.kept[1]
    assert LICENCE not in left and passage[30:-30] not in left
    assert left.startswith("Its start\nMiddle, ") and left.endswith("\nits end")


@pytest.mark.parametrize(
    ("text", "spans", "left"),
    [
        ("abcdef", [], "abcdef"),
        ("abcdef", [(1, 3), (2, 4)], "aef"),
        ("abcdef", [(3, 6), (0, 1)], "bc"),
        ("a cut b", [(2, 5)], "a b"),
        ("a\n\ncut\n\nb", [(3, 7)], "a\n\nb"),
        ("a\n\ncut\n\n\nb", [(3, 7)], "a\n\nb"),
        ("cut\n\nb", [(0, 4)], "b"),
        ("a\ncut\nb", [(2, 6)], "a\nb"),
        ("all", [(0, 3)], ""),
    ],
)
def test_of_the_blanks_around_a_gap_one_kind_stays(
    text: str, spans: list[tuple[int, int]], left: str
) -> None:
    assert cut(text, spans) == left


def test_another_text_than_the_one_searched_is_refused() -> None:
    text = f"one\n{LICENCE}\n{COOKIES}"
    for keyer in (paragraphs(), substrings(20)):
        keys = keyer.keys([text])
        assert keyer.spans(text, keys.at, keys.key)
        for other in (text.replace("page", "book"), "two\n" + text, ""):
            with pytest.raises(FailedWork, match="not the one that its repeated parts were found in"):
                keyer.spans(other, keys.at[-2:], keys.key[-2:] if "book" not in other else keys.key[:2])
