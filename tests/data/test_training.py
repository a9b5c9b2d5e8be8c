"""What a run reads, with every option: each sample of an epoch once, whatever the ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.packing import pack
from megatrain.config import Config, DataConfig
from megatrain.data.batch import Batch
from megatrain.data.mixture import TokenMixture
from megatrain.data.permutation import BlockShuffle
from megatrain.data.shard import read_shard
from megatrain.data.training import TrainingSamples, at_hand, open_loader
from megatrain.errors import FailedWork, UserError

from .conftest import EOS, MakeDataset, documents_of, make_split

S = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources in three shards, with a packing plan."""
    home = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    shards = [(source, documents_of(rng, count, 1000)) for source, count in (("a", 40), ("b", 25), ("a", 15))]
    pack(make_split(home / "data" / "train", shards), S)
    return home / "data"


@pytest.fixture(scope="module", autouse=True)
def several_plans() -> Iterator[None]:
    """So small a number that the loader plans its reads several times in each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megatrain.data.loader.LOCATED_TOGETHER", 16)
        yield


DOCUMENTS: dict[str, dict[str, Any]] = {
    "start": {},
    "mask": {"document_start": "none"},
    "concat": {"document_mask": False},
}


@dataclass(frozen=True)
class Setting:
    """A run's data section and its batches."""

    data: dict[str, Any]
    train: dict[str, int]
    dp_size: int


@st.composite
def options(draw: st.DrawFn) -> Setting:
    """Every option with every other."""
    data: dict[str, Any] = {
        "packing": draw(st.sampled_from(["none", "best_fit"])),
        **draw(st.sampled_from(list(DOCUMENTS.values()))),
        "sequence_length": S,
        "verify": "none",
    }
    if draw(st.booleans()):
        data["shuffle"] = {
            "kind": "block",
            "block": draw(st.integers(1, 9)),
            "window": draw(st.integers(1, 4)),
        }
    if draw(st.booleans()):
        ends = np.cumsum(draw(st.lists(st.integers(1, 60), max_size=2))).tolist()
        weights = st.dictionaries(st.sampled_from("ab"), st.floats(0.1, 2), min_size=1)
        data["phases"] = [{"from_tokens": S * first, "weights": draw(weights)} for first in [0, *ends]]
    global_batch = draw(st.integers(1, 9))
    train = {"global_batch": global_batch, "micro_batch": draw(st.integers(1, global_batch))}
    return Setting(data, train, draw(st.integers(1, 4)))


def open_config(folder: Path, setting: Setting) -> tuple[TrainingSamples, Config]:
    data = {"sources": [{"path": str(folder)}], **setting.data}
    config = Config.model_validate({"data": data, "train": setting.train})
    return TrainingSamples(TokenMixture.open(config.data, "train"), config.data), config


def rows_by_sample(folder: Path, setting: Setting, steps: int, seed: int) -> dict[int, list[list[int]]]:
    """Of all ranks together: tokens, labels, positions and mask of each sample, of which none comes twice."""
    samples, config = open_config(folder, setting)
    order, found = samples.order(seed), dict[int, list[list[int]]]()
    for rank in range(setting.dp_size):
        loader = open_loader(samples, order, config, dp_rank=rank, dp_size=setting.dp_size)
        for step in range(steps):
            batch = loader.batch(step * config.train.global_batch)
            for sample, row in zip(batch.sample_ids.tolist(), rows(batch.micro_batches), strict=True):
                assert sample not in found
                if sample >= 0:
                    found[sample] = row
                else:
                    assert not any(row[3])
        loader.close()
    assert sorted(found) == list(range(steps * config.train.global_batch))
    return found


def rows(batches: tuple[Batch, ...]) -> Iterator[list[list[int]]]:
    for batch in batches:
        columns = (batch.tokens, batch.labels, batch.positions, batch.loss_mask)
        yield from map(list, zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=40)
@given(setting=options(), seed=st.integers(0, 99))
def test_no_sample_is_lost_or_doubled_on_any_ranks(folder: Path, setting: Setting, seed: int) -> None:
    found = rows_by_sample(folder, setting, steps=4, seed=seed)
    alone = Setting(setting.data, {**setting.train, "micro_batch": 1}, 1)
    assert found == rows_by_sample(folder, alone, steps=4, seed=seed)


@settings(max_examples=25)
@given(setting=options(), seed=st.integers(0, 99))
def test_each_epoch_of_a_source_holds_its_rows_once(folder: Path, setting: Setting, seed: int) -> None:
    samples, config = open_config(folder, setting)
    order = samples.order(seed)
    loader = open_loader(samples, order, config, dp_rank=0, dp_size=1)
    count = 3 * sum(order.sizes)
    located, seen = order.locate(0, count), list[list[int]]()
    for first in range(0, count, config.train.global_batch):
        batch = loader.batch(first)
        seen += [row[0] for row, n in zip(rows(batch.micro_batches), batch.sample_ids, strict=True) if n >= 0]
    loader.close()
    for which, source in enumerate(order.sources):
        every = sorted(rows_of(samples, source))
        mine = [seen[at] for at in np.flatnonzero(located.source[:count] == which)]
        size = order.sizes[which]
        assert len(every) == size
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size : (epoch + 1) * size]) == every


def rows_of(samples: TrainingSamples, source: str) -> list[list[int]]:
    """The tokens of all samples of a source, by Arrow."""
    dataset, pieces = samples.locate(source, np.arange(samples.sizes[source]))
    shards = [
        np.concatenate([document.tokens for document in read_shard(dataset.folder / shard.name)])
        for shard in dataset.manifest.shards
    ]
    found = np.full((samples.sizes[source], S + 1), EOS)
    columns = (pieces.row, pieces.at, pieces.shard, pieces.start, pieces.length)
    for row, at, shard, start, length in zip(*(column.tolist() for column in columns), strict=True):
        found[row, at : at + length] = shards[shard][start : start + length]
    return found[:, :-1].tolist()


@pytest.mark.parametrize("documents", DOCUMENTS)
def test_packed_rows_train_on_each_token_of_each_document_once(folder: Path, documents: str) -> None:
    """And, unless they are masked, on the first tokens of all documents but those that begin a row."""
    setting = Setting(
        {"packing": "best_fit", "sequence_length": S, **DOCUMENTS[documents]},
        {"global_batch": 5, "micro_batch": 2},
        1,
    )
    samples, config = open_config(folder, setting)
    order = samples.order(seed=1)
    one_epoch = sum(order.sizes)
    loader = open_loader(samples, order, config, dp_rank=0, dp_size=1)
    counted: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
    located = order.locate(0, 4 * one_epoch)
    by_sample = dict[int, list[list[int]]]()
    for first in range(0, 4 * one_epoch, 5):
        batch = loader.batch(first)
        by_sample |= dict(zip(batch.sample_ids.tolist(), rows(batch.micro_batches), strict=True))
    loader.close()
    for sample in range(4 * one_epoch):
        if located.epoch[sample] == 0:
            tokens, labels, positions, mask = by_sample[sample]
            counted[order.sources[located.source[sample]]] += [
                (token, label)
                for token, label, position, counts in zip(tokens, labels, positions, mask, strict=True)
                if counts and (token != EOS)
            ]
            ends = [at for at, token in enumerate(tokens[:-1]) if token == EOS]
            if documents != "concat":
                begins = [0, *(ends if documents == "start" else [at + 1 for at in ends])]
                assert [at for at, position in enumerate(positions[:-1]) if position == 0] == sorted(
                    {*begins} - {S - 1}
                )
            counts_behind = [counts for token, counts in zip(tokens, mask, strict=True) if token == EOS]
            if documents == "mask":
                assert not any(counts_behind)
            else:
                assert mask == sorted(mask, reverse=True), "the padding alone is masked"
    for source, pairs in counted.items():
        wanted = []
        for shard in TokenMixture.open(config.data, "train").datasets[0].manifest.shards:
            if shard.source == source:
                for document in read_shard(folder / "train" / shard.name):
                    wanted += list(zip(document.tokens.tolist(), document.tokens[1:].tolist(), strict=False))
        assert sorted(pairs) == sorted(wanted)


def test_without_document_mask_the_padding_alone_is_masked(folder: Path) -> None:
    setting = Setting(
        {"packing": "best_fit", "sequence_length": S, "document_mask": False},
        {"global_batch": 8, "micro_batch": 8},
        1,
    )
    samples, config = open_config(folder, setting)
    order = samples.order(seed=1)
    loader = open_loader(samples, order, config, dp_rank=0, dp_size=1)
    for first in range(0, sum(order.sizes), 8):
        located = order.locate(first, 8)
        batch = loader.batch(first)
        for at, row in enumerate(rows(batch.micro_batches)):
            source = order.sources[located.source[at]]
            _, pieces = samples.locate(source, located.window[at : at + 1])
            assert sum(row[3]) == pieces.length.sum() - 1 and all(row[3][: sum(row[3])])
    loader.close()


def test_the_fingerprint_tells_settings_apart(folder: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"packing": "best_fit"},
        {"document_mask": False},
        {"packing": "best_fit", "document_mask": False},
        {"shuffle": {"kind": "block", "block": 4}},
        {"shuffle": {"kind": "block", "block": 8}},
        {"phases": [{"from_tokens": 0, "weights": {"a": 1, "b": 1}}]},
        {"phases": [{"from_tokens": 0, "weights": {"a": 1}}, {"from_tokens": 160, "weights": {"b": 1}}]},
        {"phases": [{"from_tokens": 0, "weights": {"a": 1}}, {"from_tokens": 320, "weights": {"b": 1}}]},
    ]
    found = []
    for change in changes:
        samples, _ = open_config(folder, Setting({"sequence_length": S, **change}, {}, 1))
        found.append(samples.fingerprint(samples.order(seed=1)))
    assert len(set(found)) == len(found)
    # One phase from the first token on is what weights of the sources say.
    weighted = [{"path": str(folder), "name": name, "weight": 1} for name in "ab"]
    samples, _ = open_config(folder, Setting({"sequence_length": S, "sources": weighted}, {}, 1))
    assert samples.fingerprint(samples.order(seed=1)) == found[6]


def test_phases_name_sources_that_are_there(folder: Path) -> None:
    phases = [{"from_tokens": 0, "weights": {"a": 1}}, {"from_tokens": 1e3, "weights": {"c": 1}}]
    samples, _ = open_config(folder, Setting({"sequence_length": S, "phases": phases}, {}, 1))
    with pytest.raises(UserError, match="source 'c' has a weight but no data; there is a, b"):
        samples.order(seed=1)


def test_a_plan_that_is_not_there_or_damaged_is_told(make_dataset: MakeDataset) -> None:
    split = make_dataset({"a": 40})
    data = {"sources": [{"path": str(split.parent)}], "packing": "best_fit", "sequence_length": S}
    config = DataConfig.model_validate(data)
    with pytest.raises(UserError, match=f"no plan for data.sequence_length .*megatrain data pack {split}"):
        TrainingSamples(TokenMixture.open(config, "train"), config)
    name = pack(split, S).shards[0].name
    samples = TrainingSamples(TokenMixture.open(config, "train"), config)
    samples.verify_share(0, 1)
    path = split / f"packing-{S}" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(FailedWork, match=f"{name}: the plan is damaged"):
        samples.verify_share(0, 1)


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    shuffle=st.builds(BlockShuffle, st.integers(1, 20), st.integers(1, 4)),
    key=st.integers(0, 2**64 - 1),
)
def test_shards_at_hand_are_no_more_than_foreseen(counts: list[int], shuffle: BlockShuffle, key: int) -> None:
    ends, sizes = np.cumsum(counts), np.arange(len(counts)) % 3 + 1
    size, length = int(ends[-1]), shuffle.block * shuffle.window
    there = shuffle.permute(np.arange(size), size, np.array([key], np.uint64))
    for first in range(0, size, length):
        shards = np.unique(np.searchsorted(ends, there[first : first + length], side="right"))
        assert sizes[shards].sum() <= at_hand(ends, sizes, shuffle)
    assert at_hand(ends, sizes, None) == sizes.sum()
