"""Into another format and back, the documents are the same; what is not sound is named and leaves nothing."""

import errno
import io
import json
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.convert import batches, export_dataset, import_dataset, source_writer
from data_tools.convert.export_dataset import RECORD
from data_tools.convert.import_dataset import ImportConfig
from data_tools.convert.inputs import Format, Place
from data_tools.datasets.shards import open_splits, read_columns
from data_tools.diff import diff
from data_tools.progress import Progress
from data_tools.verify import faults
from megatrain.data.manifest import Manifest
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork, UserError
from tests.data_tools.finished import change_manifest, corpus, doc_id, make_dataset, write

DRAMA, VERSE = corpus("drama", 20), corpus("verse", 20)
QUIET = Progress(io.StringIO())
PLACES = ("train/drama", "train/a verse", "test/a verse")
FORMATS: tuple[Format, ...] = ("megatron", "mds", "parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(
        tmp_path_factory.mktemp("convert") / "data",
        {"train": {"drama": DRAMA, "a verse": VERSE[:12]}, "test": {"a verse": VERSE[12:]}},
        documents_a_shard=50,
    )


@pytest.fixture(scope="module")
def exported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export in each format."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in FORMATS:
        export_dataset.export_dataset(data, kind, folder / kind, QUIET)
    return folder


def imported(
    data: Path, output: Path, kind: Format, inputs: Sequence[str], **settings: Any
) -> dict[str, Manifest]:
    config = ImportConfig(
        [Place.parse(text) for text in inputs], kind, data, output, **{"workers": 1, **settings}
    )
    return import_dataset.import_dataset(config, QUIET)


def inputs_of(folder: Path, kind: Format) -> list[str]:
    """What an export has to be called to come back as it was."""
    places = ("train", "test") if kind == "parquet" else PLACES
    return [f"{place}={folder / kind / place}" for place in places]


@pytest.mark.parametrize("kind", FORMATS)
def test_there_and_back(data: Path, exported: Path, kind: Format, tmp_path: Path) -> None:
    manifests = imported(data, tmp_path / "back", kind, inputs_of(exported, kind))
    found = diff(data, tmp_path / "back")
    assert found.same_streams and found.documents.common == 40
    assert not (found.documents.only_in_a or found.documents.only_in_b or found.documents.moved)
    assert all(ours == theirs for ours, theirs in found.totals.values())
    assert list(faults(tmp_path / "back", progress=QUIET)) == []
    assert manifests["train"].made["counts"]["drama"] == {
        "read": 20,
        "kept": 20,
        "import.empty": 0,
        "kept_bytes": sum(len(text.encode()) for text in DRAMA),
    }
    assert json.loads((exported / kind / RECORD).read_text())["fingerprints"]["train"] == (
        manifests["train"].fingerprint
    )
    assert Tokenizer.load(exported / kind).hash == Tokenizer.load(tmp_path / "back").hash


def test_shards_are_filled_and_the_result_depends_on_neither_batches_nor_processes(
    data: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(exported, "megatron")
    once = imported(data, tmp_path / "one", "megatron", inputs, max_tokens=600)
    for shard in once["train"].shards:
        assert shard.tokens <= 600 or shard.documents == 1
    sizes = [shard.tokens for shard in once["train"].shards if shard.source == "drama"]
    assert len(sizes) > 5 and all(a + b > 600 for a, b in pairwise(sizes))
    assert [shard.name for shard in once["train"].shards] == [
        f"shard-{number:05d}.arrow" for number in range(len(once["train"].shards))
    ]
    assert [shard.source for shard in once["train"].shards] == sorted(s.source for s in once["train"].shards)
    monkeypatch.setattr("data_tools.convert.megatron.BATCH_TOKENS", 50)
    monkeypatch.setattr("data_tools.convert.megatron._CHUNK", 3)
    again = imported(data, tmp_path / "two", "megatron", inputs, max_tokens=600, workers=2)
    assert {name: one.shards for name, one in once.items()} == {
        name: one.shards for name, one in again.items()
    }
    written = {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.*")}
    assert not any(path.name.startswith("source-") for path in written)


# --- the formats, byte by byte ---

# Two documents of the tokens 5 6 2 and 7 2: the first in two sequences.
IDX = (
    b"MMIDIDX\x00\x00"
    + b"\x01" + bytes(7)  # version
    + b"\x08"  # uint16
    + b"\x03" + bytes(7)  # sequences
    + b"\x03" + bytes(7)  # document bounds
    + b"\x02\0\0\0\x01\0\0\0\x02\0\0\0"  # tokens of each sequence
    + bytes(8) + b"\x04" + bytes(7) + b"\x06" + bytes(7)  # where each begins in the .bin
    + bytes(8) + b"\x02" + bytes(7) + b"\x03" + bytes(7)  # document bounds
)  # fmt: skip
BIN = b"\x05\0\x06\0\x02\0\x07\0\x02\0"
CONFIG = (
    b'{"column_encodings": ["bytes", "str", "ndarray:uint16"], '
    b'"column_names": ["doc_id", "source", "tokens"], '
    b'"column_sizes": [null, null, null], "compression": null, "format": "mds", "hashes": [], '
    b'"size_limit": 67108864, "version": 2}'
)


def tiny(tmp_path: Path) -> Path:
    """A dataset of those two documents."""
    folder = make_dataset(tmp_path / "tiny", {"train": {"s": ["x", "y"]}})
    info = write(folder / "train", 0, "s", ["x", "y"], [[5, 6, 2], [7, 2]], Tokenizer.load(folder).hash)
    change_manifest(folder / "train", shards=(info,))
    return folder


def test_a_megatron_index_byte_by_byte(data: Path, tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    export_dataset.export_dataset(folder, "megatron", tmp_path / "out", QUIET)
    assert (tmp_path / "out/train/s.bin").read_bytes() == BIN
    ours = (tmp_path / "out/train/s.idx").read_bytes()
    whole = b"\x03\0\0\0\x02\0\0\0" + bytes(8) + b"\x06" + bytes(15) + b"\x01" + bytes(7) + b"\x02" + bytes(7)
    assert ours == IDX[:18] + b"\x02" + bytes(7) + b"\x03" + bytes(7) + whole
    (tmp_path / "theirs.idx").write_bytes(IDX)
    (tmp_path / "theirs.bin").write_bytes(BIN)
    for name in ("theirs", "theirs.bin", "theirs.idx"):
        imported(data, tmp_path / f"in-{name}", "megatron", [f"train/s={tmp_path / name}"])
        columns = read_columns(tmp_path / f"in-{name}" / "train" / "shard-00000.arrow")
        assert (columns.tokens.tolist(), columns.lengths.tolist()) == ([5, 6, 2, 7, 2], [3, 2])


def test_an_mds_shard_byte_by_byte(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    export_dataset.export_dataset(folder, "mds", tmp_path / "out", QUIET)
    samples = [
        b"\x10\0\0\0\x01\0\0\0" + bytes([2 + len(tokens)]) + b"\0\0\0" + doc_id(text) + b"s"
        # one dimension, whose size is in one byte; the size; the tokens
        + b"\x04" + bytes([len(tokens) // 2]) + tokens
        for text, tokens in (("x", BIN[:6]), ("y", BIN[6:]))
    ]  # fmt: skip
    first = 4 * 4 + len(CONFIG)
    places = np.array([2, first, first + len(samples[0]), first + sum(map(len, samples))], "<u4")
    content = places.tobytes() + CONFIG + b"".join(samples)
    assert (tmp_path / "out/train/s/shard.00000.mds").read_bytes() == content
    data = {"basename": "shard.00000.mds", "bytes": len(content), "hashes": {}}
    shard = {**json.loads(CONFIG), "raw_data": data, "samples": 2, "zip_data": None}
    assert json.loads((tmp_path / "out/train/s/index.json").read_text()) == {"shards": [shard], "version": 2}


# --- what others write ---


def write_mds(folder: Path, column: str, encoding: str, records: Sequence[bytes], codec: str = "") -> None:
    """A folder of one MDS shard with one column of these bytes."""
    folder.mkdir()
    head = json.dumps({"column_names": [column]}).encode()
    samples = [np.uint32(len(record)).tobytes() + record for record in records]
    places = np.cumsum([4 * (len(samples) + 2) + len(head), *map(len, samples)]).astype("<u4")
    content = np.uint32(len(samples)).tobytes() + places.tobytes() + head + b"".join(samples)
    shard = {
        "column_encodings": [encoding],
        "column_names": [column],
        "column_sizes": [None],
        "compression": codec or None,
        "format": "mds",
        "raw_data": {"basename": "shard.00000.mds", "bytes": len(content), "hashes": {}},
        "samples": len(samples),
        "version": 2,
        "zip_data": {"basename": "shard.00000.mds.zstd", "bytes": 0, "hashes": {}} if codec else None,
    }
    if codec:
        with pa.output_stream(str(folder / "shard.00000.mds.zstd"), compression="zstd") as stream:
            stream.write(content)
    else:
        (folder / "shard.00000.mds").write_bytes(content)
    (folder / "index.json").write_text(json.dumps({"shards": [shard], "version": 2}))


def stream_of(data: Path, source: str) -> np.ndarray[Any, Any]:
    """The tokens of a source of the train split."""
    dataset = open_splits(data)["train"]
    shards = [shard.name for shard in dataset.manifest.shards if shard.source == source]
    return np.concatenate([read_columns(dataset.folder / name).tokens for name in shards])


@pytest.mark.parametrize(("width", "codec"), [(64, ""), (1000, "zstd:7")])
def test_packed_windows_are_cut_at_eos(data: Path, tmp_path: Path, width: int, codec: str) -> None:
    """As the preparation for llm-foundry leaves them: int64 in plain bytes."""
    for source in ("drama", "a verse"):
        tokens = stream_of(data, source).astype(np.int64)
        windows = [tokens[at : at + width].tobytes() for at in range(0, len(tokens), width)]
        write_mds(tmp_path / source, "input_ids", "bytes", windows, codec)
    inputs = [f"train/{source}={tmp_path / source}" for source in ("drama", "a verse")]
    settings = {"cut": "eos", "column": "input_ids", "bytes_dtype": "int64"}
    back = imported(data, tmp_path / "back", "mds", inputs, **settings)
    assert back["train"].fingerprint == open_splits(data)["train"].fingerprint
    assert diff(data / "train", tmp_path / "back" / "train").documents.common == 32
    write_mds(tmp_path / "endless", "input_ids", "bytes", [np.full(30, 5, np.int64).tobytes()], codec)
    with pytest.raises(FailedWork, match=r"record 0: more than 20 tokens without EOS \(2\)"):
        imported(data, tmp_path / "no", "mds", [f"test/s={tmp_path / 'endless'}"], **settings, max_tokens=20)


@pytest.mark.parametrize("encoding", ["ndarray", "ndarray:int32", "ndarray:int32:3"])
def test_arrays_of_mds_in_all_their_forms(data: Path, tmp_path: Path, encoding: str) -> None:
    head = {"ndarray": b"\x21\x04\x03", "ndarray:int32": b"\x05\x03\0", "ndarray:int32:3": b""}[encoding]
    records = [head + np.array(tokens, "<i4").tobytes() for tokens in ([5, 6, 7], [8, 9, 2])]
    write_mds(tmp_path / "in", "tokens", encoding, records)
    imported(data, tmp_path / "out", "mds", [f"train/s={tmp_path / 'in'}"])
    columns = read_columns(tmp_path / "out" / "train" / "shard-00000.arrow")
    assert (columns.tokens.tolist(), columns.lengths.tolist()) == ([5, 6, 7, 2, 8, 9, 2], [4, 3])


def write_parquet(path: Path, tokens: Sequence[Sequence[int] | None], **columns: Any) -> Path:
    pq.write_table(pa.table({"tokens": pa.array(tokens, pa.list_(pa.int32())), **columns}), path)
    return path


def test_sources_that_the_records_name_are_told_apart(data: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tokens = [[5, 2], [6, 2], [7, 2], [8, 2]]
    write_parquet(tmp_path / "in/0.parquet", tokens, source=["b", "a", "b", "a"])
    write_parquet(tmp_path / "in/1.parquet", [[9]], source=["c"])
    found = imported(data, tmp_path / "out", "parquet", [f"train={tmp_path / 'in'}"])
    shards = found["train"].shards
    streams = [read_columns(tmp_path / "out/train" / shard.name).tokens.tolist() for shard in shards]
    assert dict(zip((shard.source for shard in shards), streams, strict=True)) == {
        "a": [6, 2, 8, 2],
        "b": [5, 2, 7, 2],
        "c": [9, 2],
    }
    write_parquet(tmp_path / "bare.parquet", [[5, 2]])
    with pytest.raises(FailedWork, match=r"name no source; write train/SOURCE="):
        imported(data, tmp_path / "no", "parquet", [f"train={tmp_path / 'bare.parquet'}"])


def test_records_are_ended_by_eos_and_empty_ones_are_counted(data: Path, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [[5, 6], [], [2], None, [7, 2], [2, 8]])
    (manifest,) = imported(data, tmp_path / "out", "parquet", [f"test/s={file}"]).values()
    columns = read_columns(tmp_path / "out/test" / "shard-00000.arrow")
    assert (columns.tokens.tolist(), columns.lengths.tolist()) == ([5, 6, 2, 7, 2, 2, 8, 2], [3, 2, 3])
    counts = {name: count for name, count in manifest.made["counts"]["s"].items() if name != "kept_bytes"}
    assert counts == {"read": 6, "import.empty": 3, "kept": 3}
    assert manifest.made["changes"] == {"s": {"import.eos_added": 2}}
    tokenizer = Tokenizer.load(data)
    assert columns.doc_id(0) == doc_id(tokenizer.decode([5, 6]))


# --- what is not sound ---


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def edit(path: Path, at: int, content: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("megatron", lambda f: (f / "x.bin").unlink(), r"x\.bin: no such file"),
        ("megatron", lambda f: cut(f / "x.bin"), r"x\.bin: .* bytes, its index tells of .*: cut short"),
        ("megatron", lambda f: cut(f / "x.idx"), r"x\.idx: .* bytes, its header tells of"),
        ("megatron", lambda f: edit(f / "x.idx", 0, b"TNTIDX"), r"x\.idx: not an index of Megatron's"),
        ("megatron", lambda f: edit(f / "x.idx", 9, b"\2"), r"x\.idx: version 2; only version 1"),
        ("megatron", lambda f: edit(f / "x.idx", 17, b"\7"), r"x\.idx: type code 7: its tokens are no"),
        ("mds", lambda f: (f / "x/index.json").write_text("{}"), r"index\.json: not an index"),
        ("mds", lambda f: (f / "x/shard.00000.mds").unlink(), r"shard\.00000\.mds: shard missing"),
        ("parquet", lambda f: cut(f / "x/shard-00000.parquet"), r"00000\.parquet: cannot be read as parquet"),
    ],
)
def test_what_can_be_seen_before_work_begins(
    data: Path,
    exported: Path,
    tmp_path: Path,
    kind: Format,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    refused(data, exported, tmp_path, kind, damage, UserError, message)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("megatron", lambda f: edit(f / "x.bin", 400, b"\xff\xff"), r"x\.bin: record \d+: token id 65535 is"),
        ("megatron", lambda f: edit(f / "x.idx", 34, b"\1"), r"x\.idx: documents from 0 on: not one after"),
        ("mds", lambda f: cut(f / "x/shard.00000.mds"), r"shard\.00000\.mds: sample 19: cannot be read"),
        ("mds", lambda f: edit(f / "x/shard.00000.mds", 0, b"\5"), "5 samples, the index says 20"),
        (
            "parquet",
            lambda f: edit(f / "x/shard-00000.parquet", 40, bytes(100)),
            r"shard-00000\.parquet: row 0 or after: cannot be read",
        ),
    ],
)
def test_what_work_shows(
    data: Path,
    exported: Path,
    tmp_path: Path,
    kind: Format,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    refused(data, exported, tmp_path, kind, damage, FailedWork, message)


def refused(
    data: Path,
    exported: Path,
    tmp_path: Path,
    kind: Format,
    damage: Callable[[Path], object],
    error: type[Exception],
    message: str,
) -> None:
    """The first source of an export, damaged, is refused, and no dataset appears."""
    if kind == "megatron":
        for suffix in (".bin", ".idx"):
            shutil.copy(exported / kind / f"train/drama{suffix}", tmp_path / f"x{suffix}")
    else:
        name = "train/drama" if kind == "mds" else "train"
        shutil.copytree(exported / kind / name, tmp_path / "x")
    place = "train" if kind == "parquet" else "train/drama"
    damage(tmp_path)
    with pytest.raises(error, match=message) as raised:
        imported(data, tmp_path / "out", kind, [f"{place}={tmp_path / 'x'}"])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_columns_that_are_no_tokens(data: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"tokens": ["a"], "n": [[1.5]]}), tmp_path / "a.parquet")
    for column, message in (
        ("tokens", "column 'tokens' is string; tokens are lists of integers"),
        ("n", "is list<element: double>; tokens are"),
        ("ids", "no column 'ids'; it has tokens, n: name one with --column"),
    ):
        with pytest.raises(UserError, match=message):
            imported(data, tmp_path / "o", "parquet", [f"test/s={tmp_path / 'a.parquet'}"], column=column)
    write_mds(tmp_path / "m", "tokens", "bytes", [b"\5\0"])
    with pytest.raises(UserError, match="plain bytes; say of which type with --bytes-dtype"):
        imported(data, tmp_path / "o", "mds", [f"test/s={tmp_path / 'm'}"])
    write_mds(tmp_path / "p", "tokens", "pkl", [b"\5\0"])
    with pytest.raises(UserError, match="is of type pkl; tokens are ndarray or bytes"):
        imported(data, tmp_path / "o", "mds", [f"test/s={tmp_path / 'p'}"])
    write_mds(tmp_path / "f", "tokens", "ndarray:float32", [b"\4\1\0\0\0\0"])
    with pytest.raises(FailedWork, match=r"sample 0: cannot be read \(tokens are float32, not integers\)"):
        imported(data, tmp_path / "o", "mds", [f"test/s={tmp_path / 'f'}"])


@pytest.mark.parametrize("text", ["train/s", "train/=x", "dev/s=x", "=x", "train/s=", "s=x"])
def test_an_input_says_what_it_becomes(text: str) -> None:
    with pytest.raises(UserError, match=r"not of the form SPLIT/SOURCE=PATH"):
        Place.parse(text)
    assert Place.parse("test/a/b=c=d") == Place("test", "a/b", Path("c=d"))


def test_nothing_that_is_there_is_overwritten(data: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        imported(data, tmp_path / "out", "mds", inputs_of(exported, "mds"))
    with pytest.raises(UserError, match="is there already"):
        export_dataset.export_dataset(data, "mds", tmp_path / "out", QUIET)
    empty = write_parquet(tmp_path / "e.parquet", [[]])
    with pytest.raises(FailedWork, match="nothing was imported"):
        imported(data, tmp_path / "none", "parquet", [f"test/s={empty}"])
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "none").exists()


def test_a_damaged_shard_is_not_exported(data: Path, tmp_path: Path) -> None:
    """What is copied unseen would be sound for ever after."""
    folder = shutil.copytree(data, tmp_path / "data")
    path = sorted(folder.glob("train/*.arrow"))[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FailedWork, match=rf"{path}: shard damaged"):
        export_dataset.export_dataset(folder, "parquet", tmp_path / "out", QUIET)
    assert {one.name for one in tmp_path.iterdir()} == {"data"}


def test_a_full_disk_leaves_nothing_and_is_told(
    data: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_dataset, "write_parquet", full)
    monkeypatch.setattr(source_writer, "write_shard", full)
    told = rf"{tmp_path}/out: cannot be written: No space left on device; nothing is left"
    with pytest.raises(FailedWork, match=told):
        export_dataset.export_dataset(data, "parquet", tmp_path / "out", QUIET)
    with pytest.raises(FailedWork, match=told):
        imported(data, tmp_path / "out", "mds", inputs_of(exported, "mds"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".", "/", "x/.."])
def test_an_output_has_a_name(data: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"output \(.*\): names no folder"):
        export_dataset.export_dataset(data, "parquet", Path(name), QUIET)


def test_a_source_may_have_any_name(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", {"train": {"../a/b": VERSE[:3]}})
    (path,) = export_dataset.export_dataset(folder, "mds", tmp_path / "out", QUIET)
    assert path.parent == tmp_path / "out" / "train" and (path / "index.json").is_file()


def test_cutting_at_eos_is_independent_of_where_batches_end() -> None:
    tokens = np.array([5, 2, 2, 6, 7, 2, 8, 9], np.uint16)
    for width in range(1, 9):
        cutter = batches.Cutter(2, most=100)
        parts = [
            cutter.cut(batches.Batch(Path("f"), at, np.array([1]), tokens[at : at + width]))
            for at in range(0, len(tokens), width)
        ]
        parts.append(cutter.rest())
        assert np.concatenate([part.lengths for part in parts]).tolist() == [2, 1, 3, 2]
        assert np.concatenate([part.tokens for part in parts]).tolist() == tokens.tolist()


@pytest.mark.parametrize("kind", ["megatron", "mds", "parquet"])
def test_an_import_compares_an_export_with_its_record(data: Path, tmp_path: Path, kind: Format) -> None:
    opened = export_dataset.export_dataset(data, kind, tmp_path / "exported", QUIET)
    place = Place("train", None if kind == "parquet" else "x", opened[0])
    config = ImportConfig([place], kind, data, tmp_path / "back", workers=1)
    import_dataset.import_dataset(config, QUIET)
    shutil.rmtree(tmp_path / "back")
    pattern = {"megatron": "*.bin", "mds": "*.mds", "parquet": "*.parquet"}[kind]
    path = min((tmp_path / "exported" / "train").rglob(pattern))
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises((FailedWork, UserError)) as told:
        import_dataset.import_dataset(config, QUIET)
    assert path.name in str(told.value) and not (tmp_path / "back").exists()
    path.write_bytes(content)
    (tmp_path / "exported" / "export.json").write_text("{}")
    with pytest.raises(FailedWork, match=r"export\.json: damaged"):
        import_dataset.import_dataset(config, QUIET)


def test_hashes_of_an_index_of_mds_are_compared(exported: Path, data: Path, tmp_path: Path) -> None:
    export_dataset.export_dataset(data, "mds", tmp_path / "exported", QUIET)
    (tmp_path / "exported" / "export.json").unlink()
    index = min((tmp_path / "exported").rglob("index.json"))
    for name, said in (("sha1", "0" * 40), ("xxh3_128", "0" * 32)):
        tree = json.loads(index.read_text())
        tree["shards"][0]["raw_data"]["hashes"] = {name: said}
        index.write_text(json.dumps(tree))
        config = ImportConfig([Place("train", "x", index.parent)], "mds", data, tmp_path / "back", workers=1)
        with pytest.raises(FailedWork, match=f"damaged: its {name} is not the one in index"):
            import_dataset.import_dataset(config, QUIET)
