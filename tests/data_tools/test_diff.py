"""A comparison of two datasets finds every document that one has alone or elsewhere, in bounded memory."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.datasets.ids import Label, files_for
from data_tools.datasets.matching import match
from data_tools.datasets.shards import open_splits
from data_tools.diff import diff
from megatrain.errors import UserError
from tests.data_tools.finished import Splits, change_manifest, corpus, doc_id, make_dataset

DRAMA, VERSE = corpus("drama", 30), corpus("verse", 30)
MADE = {"pipeline_version": 2, "config": {"seed": 0, "steps": [{"clean": {}}, {"length": {"min": 5}}]}}


def test_a_dataset_is_as_it_is(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "a", {"train": {"drama": DRAMA, "verse": VERSE}})
    found = diff(one, one)
    assert (found.settings, found.documents.common, found.same_streams) == ({}, 60, True)
    assert not (found.documents.only_in_a or found.documents.only_in_b or found.documents.moved)
    assert "equal fingerprints" in found.text()
    with pytest.raises(UserError, match="no prepared dataset there"):
        diff(one, tmp_path)


def test_what_was_added_removed_and_moved(tmp_path: Path) -> None:
    a = make_dataset(
        tmp_path / "a", {"train": {"drama": DRAMA[:20], "verse": VERSE[:9]}, "test": {"drama": DRAMA[20:25]}}
    )
    b = make_dataset(
        tmp_path / "b", {"train": {"drama": DRAMA[2:18]}, "test": {"drama": [*DRAMA[18:25], *DRAMA[28:]]}}
    )
    found = diff(a, b, examples=4)
    train, test, verse = Label("train", "drama"), Label("test", "drama"), Label("train", "verse")
    assert found.documents.common == 16 + 5
    assert sorted(found.documents.only_in_a[train].examples) == sorted(doc_id(t).hex() for t in DRAMA[:2])
    assert found.documents.only_in_a[verse].documents == 9
    assert len(found.documents.only_in_a[verse].examples) == 4
    assert found.documents.only_in_b.keys() == {test} and found.documents.only_in_b[test].documents == 2
    assert found.documents.moved.keys() == {(train, test)}
    assert set(found.documents.moved[train, test].examples) == {doc_id(t).hex() for t in DRAMA[18:20]}
    assert found.documents.only_in_a[verse].tokens == found.totals[verse][0].tokens > 0
    assert found.totals[train][0].documents == 20 and found.totals[train][1].documents == 16
    assert found.totals[verse][1] == (0, 0, 0)
    assert "train/drama in A, test/drama in B: 2 documents" in found.text()
    assert "only in A, train/verse: 9 documents" in found.text()


def test_another_order_and_other_settings(tmp_path: Path) -> None:
    a = make_dataset(tmp_path / "a", {"train": {"drama": DRAMA}}, made=MADE)
    b = make_dataset(tmp_path / "b", {"train": {"drama": DRAMA[::-1]}}, made=MADE)
    found = diff(a, b)
    assert diff(a, a).equal and not found.equal
    assert (found.settings, found.documents.common, found.same_streams) == ({}, 30, False)
    assert "the same documents, but" in found.text()
    other = {"pipeline_version": 2, "config": {"seed": 1, "steps": [{"clean": {}}, {"length": {"min": 6}}]}}
    change_manifest(b / "train", made=other)
    assert diff(a, b).settings == {"config.seed": (0, 1), "config.steps.1.length.min": (5, 6)}
    assert "config.seed: 0 in A, 1 in B" in diff(a, b).text()


def random_splits(seed: int) -> Splits:
    drawn = random.Random(seed)
    return {
        split: {source: drawn.choices(texts, k=12) for source, texts in (("d", DRAMA), ("v", VERSE))}
        for split in ("train", "test")
    }


def places(splits: Splits) -> Iterator[tuple[str, Label]]:
    for split in ("train", "test"):  # labels are numbered in this order, then by source
        for source, texts in splits[split].items():
            yield from ((text, Label(split, source)) for text in texts)


@pytest.mark.parametrize("seed", range(3))
def test_matching_over_any_number_of_files_is_that_of_sets(tmp_path: Path, seed: int) -> None:
    splits = random_splits(2 * seed), random_splits(2 * seed + 1)
    a, b = (open_splits(make_dataset(tmp_path / name, one)) for name, one in zip("ab", splits, strict=True))
    ours, theirs = ({text: label for text, label in [*places(one)][::-1]} for one in splits)
    moved = Counter((ours[t], theirs[t]) for t in ours.keys() & theirs.keys() if ours[t] != theirs[t])
    for files in (1, 4, 64):
        work = tmp_path / f"{files}"
        work.mkdir()
        found = match(a, b, work, files=files, examples=0)
        assert {label: group.documents for label, group in found.only_in_a.items()} == Counter(
            ours[text] for text in ours.keys() - theirs.keys()
        )
        assert {label: group.documents for label, group in found.only_in_b.items()} == Counter(
            theirs[text] for text in theirs.keys() - ours.keys()
        )
        assert {pair: group.documents for pair, group in found.moved.items()} == moved
        assert found.common == sum(theirs.get(text) == label for text, label in ours.items())
    assert len(list((tmp_path / "64" / "a").iterdir())) > 1


def test_a_file_of_ids_stays_within_the_limit(tmp_path: Path) -> None:
    splits = open_splits(make_dataset(tmp_path / "a", {"train": {"drama": DRAMA}}))
    assert [files_for([splits], rows) for rows in (1, 7, 8, 15, 29, 30, 100)] == [32, 8, 4, 2, 2, 1, 1]
