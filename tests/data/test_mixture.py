"""Several prepared folders as one thing to read from: names, weights, one tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatrain.config import DataConfig
from megatrain.data.mixture import TokenMixture
from megatrain.data.shard import read_shard
from megatrain.data.training import TrainingSamples
from megatrain.errors import FailedWork, UserError
from tests.data.conftest import MakeDataset

LENGTH = 8


def mixture(*sources: dict[str, Any]) -> TokenMixture:
    return TokenMixture.open(DataConfig.model_validate({"sources": sources}), "train")


def samples(*sources: dict[str, Any], length: int = LENGTH) -> TrainingSamples:
    config = DataConfig.model_validate({"sources": sources, "sequence_length": length})
    return TrainingSamples(TokenMixture.open(config, "train"), config)


@pytest.fixture
def folders(make_dataset: MakeDataset) -> tuple[str, str]:
    one = make_dataset({"news": 40, "poems": 10}, folder="one/train")
    two = make_dataset({"news": 30, "code": 20}, folder="two/train")
    return str(one.parent), str(two.parent)


def test_all_sources_of_all_folders(folders: tuple[str, str]) -> None:
    one, two = folders
    mixed = mixture({"path": one}, {"path": two})
    assert mixed.sources == ("news", "poems", "code", f"{two}:news"), "a name that is taken gets its folder"
    order = samples({"path": one}, {"path": two}).order(seed=1)
    sizes = {source: mixed.windows(source, LENGTH) for source in mixed.sources}
    total = sum(sizes.values())
    shares = dict(zip(order.sources, order.slots, strict=True))
    for source, size in sizes.items():  # by size
        assert abs(shares[source] - 65_536 * size / total) < 1


def test_windows_are_those_of_the_shards(folders: tuple[str, str]) -> None:
    one, two = folders
    mixed = mixture({"path": one}, {"path": two})
    for source, path in (("news", one), ("code", two), (f"{two}:news", two)):
        name = source.rpartition(":")[2]
        (tokens,) = [
            np.concatenate([document.tokens for document in documents])
            for shard in sorted(Path(path, "train").glob("*.arrow"))
            if (documents := list(read_shard(shard))) and documents[0].source == name
        ]
        count = mixed.windows(source, LENGTH)
        assert count == (len(tokens) - 1) // LENGTH
        found = np.empty((count, LENGTH + 1), np.int64)
        mixed.read(source, np.arange(count), LENGTH, found)
        wanted = np.stack([tokens[n * LENGTH : n * LENGTH + LENGTH + 1] for n in range(count)])
        assert np.array_equal(found, wanted)


def test_weights_and_names(folders: tuple[str, str]) -> None:
    one, two = folders
    sources = {"path": one, "name": "poems", "weight": 3}, {"path": two, "name": "news", "weight": 1}
    assert mixture(*sources).sources == ("poems", "news")
    order = samples(*sources).order(seed=1)
    assert dict(zip(order.sources, order.slots, strict=True)) == {"news": 16_384, "poems": 49_152}
    assert mixture({"path": one, "name": "poems"}).sources == ("poems",)


def test_the_fingerprint_follows_what_is_mixed(folders: tuple[str, str]) -> None:
    one, two = folders
    again = mixture({"path": one}, {"path": two})
    assert again.fingerprint == mixture({"path": one}, {"path": two}).fingerprint
    others = {
        mixture({"path": one}).fingerprint,
        mixture({"path": two}).fingerprint,
        mixture({"path": one, "name": "news"}).fingerprint,
        again.fingerprint,
    }
    assert len(others) == 4


def test_wrong_mixtures_name_the_key(
    folders: tuple[str, str], make_dataset: MakeDataset, tmp_path: Path
) -> None:
    one, _ = folders
    wrong = {
        r"data\.sources is empty": [],
        rf"{one} has no source 'prose'; it has news, poems": [{"path": one, "name": "prose"}],
        rf"{one}: source 'news' is named twice": [{"path": one}, {"path": one, "name": "news"}],
        rf"{one}/: source 'poems' is named twice": [{"path": one, "name": "poems"}, {"path": one + "/"}],
        rf"{tmp_path}/absent/train: no such dataset folder": [{"path": str(tmp_path / "absent")}],
    }
    for match, sources in wrong.items():
        with pytest.raises(UserError, match=match) as caught:
            mixture(*sources)
        assert "\n" not in str(caught.value)
    small = samples({"path": one, "name": "poems"}, length=100_000)
    with pytest.raises(UserError, match="source 'poems' is smaller than one sample"):
        small.order(seed=1)


def test_a_damaged_shard_is_found_by_the_rank_whose_share_it_is(folders: tuple[str, str]) -> None:
    one, two = folders
    shards = sorted(Path(one, "train").glob("*.arrow"))
    content = bytearray(shards[1].read_bytes())
    content[-20] ^= 1
    shards[1].write_bytes(content)
    mixed = samples({"path": one}, {"path": two})
    mixed.verify_share(0, 2)
    with pytest.raises(FailedWork, match=f"{shards[1]}: shard damaged"):
        mixed.verify_share(1, 2)
