"""What is told of a finished dataset is what went into it."""

from pathlib import Path

import numpy as np
import pytest

from data_tools.datasets.documents import documents_with_id, documents_with_text, random_documents
from data_tools.datasets.origin import Span, origin, span_of_window
from data_tools.datasets.overview import statistics, table
from data_tools.datasets.shards import open_splits, read_columns, split_folders
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork, UserError
from tests.data_tools.finished import corpus, doc_id, make_dataset, write_lineage

DRAMA, VERSE = corpus("drama", 25), corpus("verse", 25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(
        tmp_path_factory.mktemp("inspect") / "data",
        {
            "validation": {"verse": VERSE[20:]},
            "train": {"drama": DRAMA, "verse": VERSE[:20]},
        },
    )


def test_statistics_are_those_of_the_texts(folder: Path) -> None:
    rows = statistics(open_splits(folder))
    assert [(row.split, row.source, row.shards, row.documents) for row in rows] == [
        ("train", "drama", 4, 25),
        ("train", "verse", 3, 20),
        ("validation", "verse", 1, 5),
    ]
    tokenizer = Tokenizer.load(folder)
    lengths = sorted(len(tokenizer.encode(text)) + 1 for text in DRAMA)
    assert rows[0].text_bytes == sum(len(text.encode()) for text in DRAMA)
    assert (rows[0].tokens, rows[0].quantiles()[::5]) == (sum(lengths), (lengths[0], lengths[-1]))
    assert rows[0].quantiles()[2] == lengths[12]
    assert f"{sum(lengths):,}" in table(rows)
    assert list(open_splits(folder / "train")) == ["train"]


def test_a_dataset_may_be_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "train")
    assert list(split_folders(Path())) == ["train"]
    monkeypatch.chdir(folder)
    assert list(split_folders(Path())) == ["train", "validation"]
    with pytest.raises(UserError, match="no prepared dataset there"):
        split_folders(folder / "tokenizer")


def test_random_documents_are_whole_and_the_same_for_the_same_seed(folder: Path) -> None:
    splits = open_splits(folder)
    found = list(random_documents(splits, 60, seed=1))
    assert found == list(random_documents(splits, 60, seed=1)) != list(random_documents(splits, 60, seed=2))
    assert {one.text for one in found} <= {*DRAMA, *VERSE}
    assert len({one.doc_id for one in found}) == len(found), "each once"
    every = list(random_documents(splits, 10_000, seed=1))
    assert len(every) == sum(shard.documents for one in splits.values() for shard in one.manifest.shards)
    assert all(doc_id(one.text) == one.doc_id for one in found)
    assert {(one.split, one.source) for one in found} == {
        ("train", "drama"),
        ("train", "verse"),
        ("validation", "verse"),
    }
    assert all((one.text in VERSE[20:]) == (one.split == "validation") for one in found)


@pytest.mark.parametrize("text", [DRAMA[0], DRAMA[24], VERSE[8], VERSE[23]])
def test_a_document_is_found_by_its_id_and_by_its_text(folder: Path, text: str) -> None:
    splits = open_splits(folder)
    (by_id,) = documents_with_id(splits, doc_id(text).hex().upper())
    assert by_id.text == text
    assert by_id in list(documents_with_id(splits, doc_id(text).hex()[:2]))
    (by_text,) = documents_with_text(splits, text[5:60], 1)
    columns = read_columns(by_text.shard)
    assert columns.doc_id(by_text.row) == doc_id(by_text.text) and text[5:60] in by_text.text
    assert columns.tokens[by_text.first_token : by_text.first_token + by_text.tokens][-1] == 2


def test_what_is_not_there_is_not_found(folder: Path) -> None:
    splits = open_splits(folder)
    assert list(documents_with_id(splits, "0" * 32)) == []
    assert list(documents_with_text(splits, "no such words", 3)) == []
    assert len(list(documents_with_text(splits, "。", 3))) == 3
    for wrong in ("", "xyz", "0" * 33):
        with pytest.raises(UserError, match="no document id"):
            list(documents_with_id(splits, wrong))


@pytest.mark.parametrize("length", [16, 100, 333])
def test_the_span_of_a_window_holds_what_training_reads(folder: Path, length: int) -> None:
    dataset = open_splits(folder)["train"]
    for source in dataset.sources:
        windows = dataset.windows(source, length)
        read = np.empty((windows, length + 1), np.int64)
        dataset.read(source, np.arange(windows), length, read)
        for number in range(windows):
            span = span_of_window(dataset, source, number, length)
            tokens = read_columns(dataset.folder / dataset.manifest.shards[span.shard].name).tokens
            assert tokens[span.first : span.last].tolist() == read[number].tolist()
    with pytest.raises(UserError, match=f"no window {windows}: it has {windows}"):
        span_of_window(dataset, source, windows, length)


def test_the_documents_of_a_span(folder: Path) -> None:
    dataset = open_splits(folder)["train"]
    columns = read_columns(dataset.folder / "shard-00001.arrow")
    first, last = int(columns.offsets[2]) - 4, int(columns.offsets[4]) + 3
    found = origin(dataset, [Span(1, first, last), Span(1, 0, 1)])
    lengths = columns.lengths.tolist()
    assert [(piece.row, piece.first, piece.last, piece.length) for piece in found.pieces] == [
        (1, lengths[1] - 4, lengths[1], lengths[1]),
        (2, 0, lengths[2], lengths[2]),
        (3, 0, lengths[3], lengths[3]),
        (4, 0, 3, lengths[4]),
        (0, 0, 1, lengths[0]),
    ]
    assert [piece.text for piece in found.pieces[1:3]] == [DRAMA[9], DRAMA[10]]
    assert DRAMA[8].endswith(found.pieces[0].text) and DRAMA[11].startswith(found.pieces[3].text)
    assert all(piece.lineage is None for piece in found.pieces)
    assert "was not kept" in found.text() and doc_id(DRAMA[9]).hex() in found.text()


def test_lineage_says_which_record_a_document_was(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", {"train": {"drama": DRAMA[:7]}})
    write_lineage(folder, "train", 0, DRAMA[:7])
    dataset = open_splits(folder)["train"]
    offsets = read_columns(dataset.folder / "shard-00000.arrow").offsets
    found = origin(dataset, [Span(0, int(offsets[2]), int(offsets[5]))])
    lineage = [piece.lineage for piece in found.pieces]
    assert [(one.file, one.record, one.language) for one in lineage if one] == [
        ("raw/0.warc.gz", 20, "en"),
        ("raw/1.warc.gz", 30, "en"),
        ("raw/0.warc.gz", 40, "en"),
    ]
    assert f"raw/1.warc.gz, record 30, language en, {len(DRAMA[3].encode())} bytes" in found.text()
    (middle,) = origin(dataset, [Span(0, int(offsets[1]), int(offsets[2]))]).pieces
    assert middle.lineage is not None and middle.lineage.record == 10
    write_lineage(folder, "train", 0, DRAMA[1:8])
    with pytest.raises(FailedWork, match=r"lineage/train/shard-00000\.parquet: names other documents"):
        origin(dataset, [Span(0, 0, 5)])
    (folder / "lineage/train/shard-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(FailedWork, match=r"shard-00000\.parquet: cannot be read"):
        origin(dataset, [Span(0, 0, 5)])


def test_what_is_no_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", {"train": {"drama": DRAMA[:7]}})
    path = folder / "train" / "shard-00000.arrow"
    whole = path.read_bytes()
    for content in (b"", b"ARROW1", whole[: len(whole) // 2], b"x" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(FailedWork, match=r"shard-00000\.arrow: not a whole shard"):
            read_columns(path)
