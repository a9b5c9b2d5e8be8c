"""The search as a whole: what is kept depends on the texts and the order of sources, on nothing else."""

import os
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.duplicates.applying import removed_documents
from data_tools.duplicates.choosing import REMOVED, Choose, choose, plan_choices
from data_tools.duplicates.clustering import LABELS, cluster, plan_clustering
from data_tools.duplicates.columns import open_batches, write_batches
from data_tools.duplicates.corpus import Corpus, Part, write_band_keys, write_exact_keys, write_ids
from data_tools.duplicates.matching import EDGES, match, plan_matches
from data_tools.duplicates.near import Signer
from data_tools.duplicates.settings import Near
from megatrain.errors import FailedWork
from tests.data_tools.finding import PLENTY, Outcome, Shard, find, ids_of, write_corpus


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Hundreds of tiny tables: that they survive a power cut is another test's law."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


# Documents of two units: near duplicates are those that differ in form alone.
WORDS = ["red fox", "Red fox!", "RED FOX", "red, fox", "山水", "山，水", "blue", "Blue", "", "…"]
SIGNER = Signer(Near(bands=3, rows=2))


def result(shards: list[Shard], memory_bytes: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return find(Path(folder) / "work", shards, signer=SIGNER, memory_bytes=memory_bytes)


def expected(shards: list[Shard]) -> Counter[tuple[int, str]]:
    """What is kept by source: of each folded text that of the first source, there that of the least id."""
    kept: dict[str, tuple[int, bytes, str]] = {}
    for shard in shards:
        for text, (high, low) in zip(shard.texts, ids_of(shard.texts).tolist(), strict=True):
            folded = "".join(c for c in text.lower() if c.isalpha()) or text
            one = (shard.source, high.to_bytes(8) + low.to_bytes(8), text)
            kept[folded] = min(kept.get(folded, one), one)
    return Counter((source, text) for source, _, text in kept.values())


@st.composite
def corpora(draw: st.DrawFn) -> list[Shard]:
    texts = st.lists(st.sampled_from(WORDS), max_size=8)
    shards = draw(st.lists(st.builds(Shard, st.integers(0, 2), texts), min_size=1, max_size=6))
    return sorted(shards, key=lambda shard: shard.source)


@settings(max_examples=30, deadline=None)
@given(corpora(), st.sampled_from([200, 700, 3000, PLENTY]))
def test_what_is_kept_is_the_first_of_each_in_any_cut_of_the_work(shards: list[Shard], memory: int) -> None:
    found = result(shards, memory)
    kept = Counter(
        (shard.source, text) for shard, texts in zip(shards, found.kept, strict=True) for text in texts
    )
    assert kept == expected(shards)
    documents = [text for shard in shards for text in shard.texts]
    assert found.report.removed == len(documents) - kept.total()
    assert found.copies == len(documents) - len(set(documents))
    assert sum(size * count for size, count in found.report.sizes.items()) - found.report.sizes.total() == (
        found.report.removed
    )


@settings(max_examples=10, deadline=None)
@given(corpora(), st.randoms(use_true_random=False))
def test_the_order_of_files_in_a_source_and_of_documents_in_a_file_changes_nothing(
    shards: list[Shard], random: object
) -> None:
    texts = [
        [text for shard in shards if shard.source == source for text in shard.texts] for source in range(3)
    ]
    for of_source in texts:
        random.shuffle(of_source)  # type: ignore[attr-defined]
    other = [Shard(source, part) for source in range(3) for part in (texts[source][:3], texts[source][3:])]
    one, two = result(shards, PLENTY), result(other, 500)
    assert one.report == two.report
    assert Counter(text for part in one.kept for text in part) == Counter(
        text for part in two.kept for text in part
    )


def test_the_report_names_sizes_sources_and_examples(tmp_path: Path) -> None:
    shards = [Shard(0, ["red fox", "blue"]), Shard(2, ["Red fox!", "RED FOX", "山水", "山水", "green"])]
    found = find(tmp_path / "work", shards, signer=SIGNER)
    assert found.kept == [["red fox", "blue"], ["山水", "green"]]
    assert found.copies == 1
    fox, mountains = ids_of(["red fox"])[0].tolist(), ids_of(["山水"])[0].tolist()
    tree = found.report.as_json()
    assert tree["removed"] == 3
    assert tree["clusters_by_size"] == {"2": 1, "3": 1}
    assert tree["removed_by_sources"] == [
        {"kept": "first", "removed": "third", "documents": 2},
        {"kept": "third", "removed": "third", "documents": 1},
    ]
    assert [(one["size"], one["kept"]) for one in tree["largest_clusters"]] == [
        (3, f"{fox[0]:016x}{fox[1]:016x}"),
        (2, f"{mountains[0]:016x}{mountains[1]:016x}"),
    ]
    others = sorted(f"{high:016x}{low:016x}" for high, low in ids_of(["Red fox!", "RED FOX"]).tolist())
    assert tree["largest_clusters"][0]["removed"] == others


def test_documents_are_removed_by_id_not_by_place(tmp_path: Path) -> None:
    texts = ["one", "two", "two", "three"]
    corpus = write_corpus(tmp_path, [Shard(0, texts)])
    [task] = plan_matches(corpus, "exact", PLENTY, tmp_path)
    assert match(task) == 1
    clustering = plan_clustering(corpus, (task.out,), PLENTY, tmp_path, tmp_path / "labels")
    cluster(clustering)
    [choice] = plan_choices(corpus, clustering.out, PLENTY, tmp_path)
    choose(choice)
    assert removed_documents(corpus, 0, ids_of(texts), [choice.out]).tolist() == [False, False, True, False]
    for other in (["one", "two", "three", "two"], texts[:3], [*texts, "four"]):
        with pytest.raises(FailedWork, match="the documents are not those that duplicates were found among"):
            removed_documents(corpus, 0, ids_of(other), [choice.out])


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 9])
def test_the_least_id_stays_by_all_of_its_bits(tmp_path: Path, rows_at_once: int) -> None:
    """Of the first source alone; of one id the first row."""
    ids = np.array([[5, 9], [5, 3], [5, 3], [7, 1], [5, 4], [0, 0]], np.uint64)
    for number, rows in enumerate((slice(0, 4), slice(4, 5), slice(5, 6))):
        write_ids(tmp_path / f"ids-{number}", ids[rows])
    counts, sources = (4, 1, 1), (0, 0, 1)
    parts = [Part(s, n, tmp_path / f"ids-{i}") for i, (s, n) in enumerate(zip(sources, counts, strict=True))]
    write_batches(tmp_path / "labels", LABELS, [{"label": np.zeros(6, np.int64)}])
    task = Choose(
        Corpus(("a", "b"), tuple(parts)), tmp_path / "labels", range(6), rows_at_once, tmp_path / "out"
    )
    assert choose(task).removed == 5
    removed = [table.read(0, 6) for table in open_batches(task.out, REMOVED)]
    assert [row for batch in removed for row in batch["row"].tolist()] == [0, 2, 3, 4, 5]
    assert {row for batch in removed for row in batch["kept"].tolist()} == {1}


def test_parts_out_of_order_and_damaged_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="in the order of its sources"):
        Corpus(("a", "b"), (Part(1, 1, tmp_path), Part(0, 1, tmp_path)))
    write_ids(tmp_path / "ids", ids_of(["a", "b"]))
    content = (tmp_path / "ids").read_bytes()
    (tmp_path / "short").write_bytes(content[: len(content) // 2])
    for name in ("short", "missing"):
        with pytest.raises(FailedWork, match=f"{name}: cannot be read as a table .*remove it and run again"):
            open_batches(tmp_path / name, EDGES)
    with pytest.raises(FailedWork, match="its columns are"):
        open_batches(tmp_path / "ids", EDGES)


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    """Four times the documents in the same memory; and one key that half of them share."""
    memory, peaks = 4 << 20, []
    for documents in (20_000, 80_000):
        folder = tmp_path / str(documents)
        folder.mkdir()
        random = np.random.default_rng(0)
        parts = []
        for number in range(4):
            keys = random.integers(1, 2**64, (documents // 4, 14), dtype=np.uint64)
            keys[::2, 0] = 7  # A band that half of all documents share.
            keys[1::5] = random.integers(1, 2**64, 14, dtype=np.uint64)
            ids = random.integers(1, 2**64, (documents // 4, 2), dtype=np.uint64)
            paths = [folder / f"{name}-{number}" for name in ("ids", "exact", "bands")]
            write_ids(paths[0], ids)
            write_exact_keys(paths[1], ids)
            write_band_keys(paths[2], keys)
            parts.append(Part(0, documents // 4, *paths))
        corpus = Corpus(("a",), tuple(parts))
        tracemalloc.start()
        tasks = plan_matches(corpus, "bands", memory, folder)
        for task in tasks:
            match(task)
        matched = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        clustering = plan_clustering(
            corpus, tuple(task.out for task in tasks), memory // 4, folder, folder / "labels"
        )
        cluster(clustering)
        clustered = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        choices = plan_choices(corpus, clustering.out, memory // 4, folder)
        removed = sum(choose(task).removed for task in choices)
        peaks.append((matched, clustered, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
        assert removed > documents // 2
    for matched, clustered, chosen in peaks:
        assert matched < memory and max(clustered, chosen) < memory // 4, peaks
