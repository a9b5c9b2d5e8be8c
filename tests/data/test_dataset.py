"""Shards and the dataset that they make: what is written is read, and damage is named."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import FORMAT_VERSION, read_manifest
from megatrain.data.shard import read_shard
from megatrain.data.tokenizer import INFO_FILE
from megatrain.errors import FailedWork, UserError
from megatrain.records import sealed

from .conftest import MakeDataset


def _streams(folder: Path) -> dict[str, list[np.ndarray]]:
    """Each source's shards as runs of tokens, read by Arrow."""
    streams: dict[str, list[np.ndarray]] = {}
    for shard in read_manifest(folder).shards:
        documents = list(read_shard(folder / shard.name))
        assert {document.source for document in documents} == {shard.source}
        streams.setdefault(shard.source, []).append(np.concatenate([d.tokens for d in documents]))
    return streams


@pytest.mark.parametrize("vocab_size", [1000, 70_000])
def test_windows_are_the_stream_of_each_shard(make_dataset: MakeDataset, vocab_size: int) -> None:
    rng = np.random.default_rng(1)
    documents = [rng.integers(3, vocab_size, n).tolist() for n in (0, 17, 40, 3, 64, 1)]
    folder = make_dataset(
        [("b", documents), ("a", documents[::-1]), ("b", documents[2:])], vocab_size=vocab_size
    )
    dataset = TokenDataset.open(folder)
    assert dataset.sources == ("a", "b")
    for length in (1, 7, 16, 130, 10_000):
        for source, shards in _streams(folder).items():
            expected = [
                shard[at : at + length + 1]
                for shard in shards
                for at in range(0, len(shard) - length, length)
            ]
            assert dataset.windows(source, length) == len(expected)
            out = np.zeros((len(expected), length + 1), np.int64)
            dataset.read(source, np.arange(len(expected)), length, out)
            assert all(np.array_equal(row, want) for row, want in zip(out, expected, strict=True))
            assert dataset.tokens(source) == sum(map(len, shards))
    with pytest.raises(IndexError):
        dataset.read("a", np.array([dataset.windows("a", 7)]), 7, np.zeros((1, 8), np.int64))
    with pytest.raises(UserError, match="no source 'c'; it has a, b"):
        dataset.windows("c", 7)


def test_many_threads_and_few_files(make_dataset: MakeDataset) -> None:
    folder = make_dataset([("a", [[shard + 3] * 50]) for shard in range(8)])
    dataset = TokenDataset.open(folder, most_open=2)
    wrong: list[int] = []

    def read(seed: int) -> None:
        ids = np.random.default_rng(seed).integers(0, 8, 300)
        out = np.zeros((300, 51), np.int64)
        dataset.read("a", ids, 50, out)
        wrong.extend(ids[(out[:, 0] != ids + 3)].tolist())

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and dataset.files.open_count == 2


def test_the_fingerprint_is_of_the_token_stream_alone(make_dataset: MakeDataset) -> None:
    one = TokenDataset.open(make_dataset([("a", [[5, 6], [7]])], folder="1/train"))
    same = TokenDataset.open(make_dataset([("a", [[5, 6], [7]])], folder="2/train"))
    others = [
        TokenDataset.open(make_dataset(shards, folder=f"{n}/train"))
        for n, shards in enumerate(
            [[("a", [[5, 6], [8]])], [("b", [[5, 6], [7]])], [("a", [[7], [5, 6]])]], 3
        )
    ]
    assert one.fingerprint == same.fingerprint
    assert len({dataset.fingerprint for dataset in [one, *others]}) == 4


def test_a_flipped_byte_is_named(make_dataset: MakeDataset) -> None:
    folder = make_dataset({"a": 50, "b": 50})
    shard = folder / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    dataset = TokenDataset.open(folder)  # Sizes are right: only the hash tells.
    dataset.verify_shards([0])
    for verify in (dataset.verify, lambda: dataset.verify_shards([1])):
        with pytest.raises(FailedWork, match=r"shard-00001\.arrow: shard damaged"):
            verify()


def test_a_shard_cut_short_or_missing_is_named(make_dataset: MakeDataset) -> None:
    folder = make_dataset({"a": 50, "b": 50})
    opened_before = TokenDataset.open(folder)
    shard = folder / "shard-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(FailedWork, match=r"shard-00001\.arrow: shard cut short"):
        TokenDataset.open(folder)
    with pytest.raises(FailedWork, match=r"shard-00001\.arrow"):
        list(read_shard(shard))
    last = opened_before.windows("b", 16) - 1
    with pytest.raises(FailedWork, match=r"shard-00001\.arrow: shard cut short while in use"):
        opened_before.read("b", np.array([last]), 16, np.zeros((1, 17), np.int64))
    shard.unlink()
    with pytest.raises(FailedWork, match=r"shard-00001\.arrow: shard missing"):
        TokenDataset.open(folder)


def test_what_is_no_dataset_is_refused_with_the_way_out(make_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = make_dataset({"a": 50})
    with pytest.raises(UserError, match="no such dataset folder; make it with"):
        TokenDataset.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds the splits train"):
        TokenDataset.open(folder.parent)
    manifest = folder / "manifest.json"
    tree = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(sealed({**tree, "format_version": FORMAT_VERSION + 1})))
    with pytest.raises(UserError, match=f"format version {FORMAT_VERSION + 1} is newer"):
        TokenDataset.open(folder)
    manifest.write_text(json.dumps(sealed({**tree, "fingerprint": "0"})))
    with pytest.raises(FailedWork, match="damaged"):
        TokenDataset.open(folder)
    manifest.write_text(json.dumps(tree)[:-30])
    with pytest.raises(FailedWork, match="not JSON"):
        TokenDataset.open(folder)
    manifest.write_text(json.dumps(sealed({**tree, "shards": [], "fingerprint": "0"})))
    with pytest.raises(FailedWork, match="fingerprint"):
        TokenDataset.open(folder)


def test_another_tokenizer_is_refused(make_dataset: MakeDataset) -> None:
    folder = make_dataset({"a": 50})
    home = folder.parent / "tokenizer"
    home.mkdir()
    info = {"kind": "sentencepiece", "hash": "f" * 32, "vocab_size": 1000, "eos_id": 2, "bos_id": 1}
    (home / INFO_FILE).write_text(json.dumps({"format_version": 1, **info}))
    with pytest.raises(UserError, match="does not belong to the shards"):
        TokenDataset.open(folder)
    (home / INFO_FILE).write_text(json.dumps({"format_version": 1, **info, "kind": "novel"}))
    with pytest.raises(UserError, match="tokenizer kind 'novel' is unknown; known: sentencepiece"):
        TokenDataset.open(folder)


def test_training_reads_without_arrow(make_dataset: MakeDataset) -> None:
    folder = make_dataset({"a": 50})
    code = (
        "import sys, numpy as np; from pathlib import Path; from megatrain.data.dataset import TokenDataset\n"
        f"d = TokenDataset.open(Path({str(folder)!r}))\n"
        "d.read('a', np.arange(2), 8, np.zeros((2, 9), np.int64))\n"
        "assert not {'pyarrow', 'pandas', 'sentencepiece', 'torch', 'data_tools'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
