"""Whatever is wrong with a dataset is named in a line, and a sound one has no faults."""

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.progress import Progress
from data_tools.verify import faults, summary
from megatrain.data.manifest import ShardInfo, read_manifest
from megatrain.errors import UserError
from tests.data_tools.finished import change_manifest, corpus, make_dataset, write, write_lineage

DRAMA, VERSE = corpus("drama", 16), corpus("verse", 16)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(
        tmp_path_factory.mktemp("verify") / "data",
        {"train": {"drama": DRAMA[:12], "verse": VERSE[:9]}, "test": {"verse": VERSE[9:]}},
    )


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(sound, tmp_path / "data")


def found(folder: Path, *, quick: bool = False, workers: int = 1) -> list[str]:
    return list(faults(folder, quick=quick, workers=workers, progress=Progress(io.StringIO())))


def test_a_sound_dataset_has_no_faults(sound: Path) -> None:
    assert found(sound) == found(sound, quick=True) == found(sound / "test") == []
    assert "5 shards in train, test, " in summary(sound, quick=False)
    with pytest.raises(UserError, match="no prepared dataset there"):
        found(sound / "tokenizer")


@pytest.mark.parametrize("quick", [True, False])
def test_a_split_that_has_lost_its_manifest_or_all(folder: Path, quick: bool) -> None:
    write_lineage(folder, "train", 0, DRAMA[:7])
    (folder / "train" / "manifest.json").unlink()
    told = [f"{folder}/train/manifest.json: missing; prepare the dataset again or restore this file"]
    assert found(folder, quick=quick) == told
    shutil.rmtree(folder / "train")  # its lineage still tells of it
    assert found(folder, quick=quick) == told


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replaced(folder: Path, documents: list[list[int]], tokenizer_hash: str | None = None) -> None:
    """The second shard of train, written with other tokens, and its manifest with it."""
    manifest = read_manifest(folder / "train")
    texts = DRAMA[7 : 7 + len(documents)]
    info = write(folder / "train", 1, "drama", texts, documents, tokenizer_hash or manifest.tokenizer.hash)
    shards = (manifest.shards[0], info, *manifest.shards[2:])
    change_manifest(folder / "train", shards=shards)


def said(folder: Path, change: Callable[[ShardInfo], ShardInfo]) -> None:
    """The manifest of train says something else of its second shard."""
    manifest = read_manifest(folder / "train")
    shards = (manifest.shards[0], change(manifest.shards[1]), *manifest.shards[2:])
    change_manifest(folder / "train", shards=shards)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda f: flip(f / "train/shard-00002.arrow"), "train/shard-00002.arrow: shard damaged: its hash"),
        (lambda f: replaced(f, [[5, 6, 2], [7, 8]]), "1 documents do not end with EOS (2), e.g. "),
        (lambda f: replaced(f, [[5, 6, 2], [399, 400, 2]]), "token 4 is id 400, the vocabulary has 400"),
        (lambda f: replaced(f, [[5, 2], []]), "documents do not follow each other, e.g. that of row 1"),
        (
            lambda f: replaced(f, [[5, 2]], "f" * 32),
            f"shard-00001.arrow: tokenizer is {'f' * 32}, the manifest says",
        ),
        (
            lambda f: said(f, lambda info: dataclasses.replace(info, documents=info.documents + 1)),
            "shard-00001.arrow: documents is 5, the manifest says 6",
        ),
        (
            lambda f: said(f, lambda info: dataclasses.replace(info, tokens=info.tokens - 1)),
            "the manifest says",
        ),
        (
            lambda f: said(f, lambda info: dataclasses.replace(info, source="verse")),
            "source is drama, the manifest says verse",
        ),
        (
            lambda f: said(f, lambda info: dataclasses.replace(info, values_offset=info.values_offset + 2)),
            "values_offset is",
        ),
        (
            lambda f: said(f, lambda info: dataclasses.replace(info, tokens_hash="0" * 32)),
            f"the manifest says {'0' * 32}",
        ),
        (
            lambda f: shutil.copy(f / "test/shard-00000.arrow", f / "train/shard-00009.arrow"),
            "train/shard-00009.arrow: is in no manifest",
        ),
    ],
)
def test_what_the_content_shows(folder: Path, damage: Callable[[Path], object], line: str) -> None:
    damage(folder)
    (only,) = found(folder)
    assert line in only and "\n" not in only


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda f: (f / "train/shard-00001.arrow").unlink(), "train/shard-00001.arrow: shard missing"),
        (
            lambda f: (f / "test/shard-00000.arrow").write_bytes(b"ARROW1"),
            "test/shard-00000.arrow: shard cut short or changed: 6 bytes, the manifest says",
        ),
        (lambda f: (f / "test/manifest.json").write_text("{"), "test/manifest.json: damaged, not JSON"),
        (lambda f: flip(f / "tokenizer/tokenizer.model"), "tokenizer.model: damaged"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "no tokenizer there"),
    ],
)
def test_what_a_quick_look_shows(folder: Path, damage: Callable[[Path], object], line: str) -> None:
    damage(folder)
    lines = found(folder, quick=True)
    assert lines and all(line in one for one in lines)
    assert set(lines) <= set(found(folder))


def test_a_quick_look_reads_no_content(folder: Path) -> None:
    flip(folder / "train" / "shard-00000.arrow")
    assert found(folder, quick=True) == []


def test_another_tokenizer_beside_the_shards(folder: Path) -> None:
    manifest = read_manifest(folder / "test")
    change_manifest(folder / "test", tokenizer=dataclasses.replace(manifest.tokenizer, bos_id=77))
    (line,) = found(folder, quick=True)
    assert "bos_id=77" in line and line.startswith(f"{folder / 'test'}: its shards were made with")


def test_all_faults_are_named_in_the_order_of_the_shards_by_any_number_of_processes(folder: Path) -> None:
    for name in ("test/shard-00000", "train/shard-00003", "train/shard-00001"):
        flip(folder / f"{name}.arrow")
    lines = found(folder)
    assert [line.split(": ")[0].removeprefix(f"{folder}/") for line in lines] == [
        "train/shard-00001.arrow",
        "train/shard-00003.arrow",
        "test/shard-00000.arrow",
    ]
    assert found(folder, workers=2) == lines


def test_a_document_in_two_splits_is_a_fault(tmp_path: Path) -> None:
    texts = {"train": {"drama": DRAMA, "verse": DRAMA[:1]}, "test": {"verse": [*VERSE, DRAMA[3], DRAMA[5]]}}
    (line,) = found(make_dataset(tmp_path / "data", texts))
    assert line.startswith("2 documents are in train and in test, e.g. ")


def test_a_file_that_no_record_names_is_a_fault(folder: Path) -> None:
    for name in ("notes.txt", "train/shard-00000.bak", "extra/a/b.json", "train/.nfs1", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    named = ["extra/a/b.json", "notes.txt", "train/shard-00000.bak"]
    for quick in (True, False):
        assert found(folder, quick=quick) == [
            f"{folder}/{name}: is in no record of this dataset; remove it" for name in named
        ]
    assert found(folder / "train") == [
        f"{folder}/train/shard-00000.bak: is in no record of this dataset; remove it"
    ]
