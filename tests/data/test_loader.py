"""The loader: the same samples on every layout, masks, padding, prefetching."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatrain.data import loader as loader_module
from megatrain.data.batch import Batch, make_batch, rows_of_rank
from megatrain.data.dataset import TokenDataset
from megatrain.data.documents import Documents
from megatrain.data.files import File
from megatrain.data.loader import Loader, sequential_batches
from megatrain.data.manifest import read_manifest, write_manifest
from megatrain.data.order import SampleOrder
from megatrain.errors import FailedWork, UserError

from .conftest import EOS, MakeDataset

S = 16


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> TokenDataset:
    return TokenDataset.open(make_dataset({"a": 60, "b": 30}))


def _loader(
    dataset: TokenDataset, dp_rank: int = 0, dp_size: int = 1, micro_batch: int = 2, **options
) -> Loader:
    order = SampleOrder({source: dataset.windows(source, S) for source in dataset.sources}, None, seed=3)
    chosen = {"global_batch": 6, "prefetch": 0, "documents": "start", **options}
    return Loader(
        dataset,
        order,
        micro_batch=micro_batch,
        dp_rank=dp_rank,
        dp_size=dp_size,
        sequence_length=S,
        **chosen,
    )


def _rows(batches: tuple[Batch, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.cat([getattr(batch, name) for batch in batches])
        for name in ("tokens", "labels", "positions", "loss_mask")
    )


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 7))
def test_ranks_share_rows_without_rest(count: int, micro_batch: int, dp_size: int) -> None:
    shares = [rows_of_rank(count, micro_batch, rank, dp_size) for rank in range(dp_size)]
    assert {len(share) for share in shares} == {-(-count // (micro_batch * dp_size)) * micro_batch}
    real = np.concatenate(shares)
    assert sorted(real[real >= 0].tolist()) == list(range(count))


def test_an_id_that_the_tokenizer_has_not_is_found_by_whoever_reads_it(make_dataset: MakeDataset) -> None:
    """Whatever the layout, and also where its hash is right: not even the model's padded rows are for it."""
    sound, foreign = [[5] * 80] * 3, [[5] * 80, [6] * 30 + [1000] + [7] * 60]
    folder = make_dataset([("a", sound), ("b", foreign)])
    dataset = TokenDataset.open(folder)
    named = (
        r"train/shard-00001\.arrow: shard damaged: token number 111 \(from 0\) is 1,000, .* 0 to 999; prepare"
    )
    for read in (
        dataset.verify,
        lambda: [_loader(dataset, rank, 2).batch(at) for rank in range(2) for at in range(0, 60, 6)],
        lambda: list(
            sequential_batches(
                dataset,
                "b",
                sequence_length=S,
                micro_batch=2,
                dp_rank=0,
                dp_size=1,
                documents="start",
                limit=None,
            )
        ),
    ):
        with pytest.raises(FailedWork, match=named):
            read()
    stored = read_manifest(folder)
    for change in ({"eos_id": 1000}, {"vocab_size": 70_000}):
        write_manifest(folder, replace(stored, tokenizer=replace(stored.tokenizer, **change)))
        with pytest.raises(FailedWork, match=r"manifest(\.json:)? damaged"):
            TokenDataset.open(folder)


def test_every_layout_gives_the_same_samples(dataset: TokenDataset) -> None:
    layouts = [(1, 6), (1, 1), (2, 2), (3, 2), (4, 1), (5, 3), (8, 1)]
    for consumed in (0, 6, 31):
        seen = []
        for dp_size, micro_batch in layouts:
            ranks = [_loader(dataset, rank, dp_size, micro_batch).batch(consumed) for rank in range(dp_size)]
            assert len({len(rank.micro_batches) for rank in ranks}) == 1
            by_id = {}
            for rank in ranks:
                columns = _rows(rank.micro_batches)
                assert len(columns[0]) == len(rank.sample_ids)
                assert rank.valid_tokens == int(columns[3].sum())
                for row, sample in enumerate(rank.sample_ids.tolist()):
                    if sample == -1:
                        assert not columns[3][row].any() and (columns[2][row] >= 0).all()
                    else:
                        by_id[sample] = [column[row].tolist() for column in columns]
            seen.append(by_id)
        assert sorted(seen[0]) == list(range(consumed, consumed + 6))
        assert all(other == seen[0] for other in seen)


def test_labels_follow_tokens_and_are_the_orders_windows(dataset: TokenDataset) -> None:
    loader = _loader(dataset, documents="concat")
    batch = loader.batch(12)
    tokens, labels, positions, mask = _rows(batch.micro_batches)
    assert torch.equal(tokens[:, 1:], labels[:, :-1]) and mask.all() and batch.valid_tokens == 6 * S
    assert torch.equal(positions, torch.arange(S).expand(6, S))
    located = loader._order.locate(12, 6)
    for row in range(6):
        out = np.zeros((1, S + 1), np.int64)
        dataset.read(loader._order.sources[located.source[row]], located.window[row : row + 1], S, out)
        assert tokens[row].tolist() == out[0, :-1].tolist() and labels[row, -1] == out[0, -1]
    assert all(t.dtype == torch.int64 for t in (tokens, labels, positions)) and mask.dtype == torch.bool


@given(st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=4))
def test_eos_ends_its_document_and_its_label_does_not_count(windows: list[list[int]]) -> None:
    batch = make_batch(np.array(windows), np.full(len(windows), 9), eos_id=EOS, documents="mask")
    for row, window in enumerate(windows):
        position = 0
        for at in range(8):
            assert batch.positions[row, at] == position
            assert bool(batch.loss_mask[row, at]) == (window[at] != EOS)
            position = 0 if window[at] == EOS else position + 1
    assert batch.valid_tokens == int(batch.loss_mask.sum())


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=4),
    st.sampled_from([None, 0, 4, 8, 9]),
)
def test_eos_begins_the_document_behind_it_and_every_label_counts(
    windows: list[list[int]], real: int | None
) -> None:
    counted = None if real is None else np.full(len(windows), real)
    batch = make_batch(np.array(windows), counted, eos_id=EOS, documents="start")
    for row, window in enumerate(windows):
        position = -1
        for at in range(8):
            position = 0 if window[at] == EOS else position + 1
            assert batch.positions[row, at] == position
            assert bool(batch.loss_mask[row, at]) == (real is None or at + 1 < real)
    assert batch.valid_tokens == int(batch.loss_mask.sum())


def test_prefetch_changes_nothing_and_jumps_are_allowed(dataset: TokenDataset) -> None:
    plain, ahead = _loader(dataset), _loader(dataset, prefetch=3)
    try:
        for consumed in (0, 6, 12, 60, 66, 7, 13, 0):
            one, other = plain.batch(consumed), ahead.batch(consumed)
            assert np.array_equal(one.sample_ids, other.sample_ids) and other.wait_s >= 0
            pairs = zip(_rows(one.micro_batches), _rows(other.micro_batches), strict=True)
            assert all(itertools.starmap(torch.equal, pairs))
            assert len(ahead._ahead) == 3
    finally:
        ahead.close()


@pytest.mark.parametrize("slow", [True, False])
def test_slow_reads_are_asked_for_a_batch_ahead(
    dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    plain = _loader(dataset)
    wanted = [_rows(plain.batch(6 * step).micro_batches) for step in range(10)]
    monkeypatch.setattr(loader_module, "WAITED_SHARE", -1.0 if slow else 1e9)
    monkeypatch.setattr(loader_module, "SLOW_BATCHES", 3)
    monkeypatch.setattr(loader_module, "LOCATED_TOGETHER", 30)  # rows: five batches
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(File, "advise", lambda self, offset, size: told.append((self.name, offset)))
    loader = _loader(dataset)
    for step in range(10):
        rows = zip(_rows(loader.batch(6 * step).micro_batches), wanted[step], strict=True)
        assert all(itertools.starmap(torch.equal, rows)), "it changes nothing"
    # Two plans of five batches; without slow reads the first three batches, and the one after, are enough.
    assert len(told) == len(set(told)) == (60 if slow else 24)


@pytest.mark.parametrize("documents", get_args(Documents))
def test_a_batch_that_is_held_stays_as_it_is(dataset: TokenDataset, documents: Documents) -> None:
    """Memory is used again, but only when nobody holds it."""
    loader, plain = (
        _loader(dataset, documents=documents),
        _loader(dataset, documents=documents),
    )
    held = [loader.batch(6 * step).micro_batches for step in range(5)]
    views = [loader.batch(6 * step).micro_batches[0].labels[:1, 3:] for step in range(5, 8)]
    for _ in range(20):
        loader.batch(0)
    for step, batches in enumerate(held):
        wanted = _rows(plain.batch(6 * step).micro_batches)
        assert all(itertools.starmap(torch.equal, zip(_rows(batches), wanted, strict=True)))
    for step, view in enumerate(views, 5):
        assert torch.equal(view, plain.batch(6 * step).micro_batches[0].labels[:1, 3:])
    assert len(loader._memory._made) == 9 and len(plain._memory._made) <= 2
    del held, batches, views, view
    for step in range(20):
        loader.batch(6 * step)
    assert len(loader._memory._made) == 9


def test_an_error_in_the_thread_reaches_the_caller(dataset: TokenDataset) -> None:
    for shard in dataset.manifest.shards:
        (dataset.folder / shard.name).write_bytes(b"")
    loader = _loader(dataset, prefetch=2)
    with pytest.raises(FailedWork, match="cut short while in use"):
        loader.batch(0)
    loader.close()


@pytest.mark.parametrize(
    ("limit", "dp_size", "micro_batch"), [(None, 1, 4), (None, 3, 2), (5, 2, 2), (10**6, 2, 3)]
)
def test_sequential_batches_take_every_window_once(
    dataset: TokenDataset, limit: int | None, dp_size: int, micro_batch: int
) -> None:
    total = dataset.windows("a", S)
    ranks = [
        list(
            sequential_batches(
                dataset,
                "a",
                sequence_length=S,
                micro_batch=micro_batch,
                dp_rank=rank,
                dp_size=dp_size,
                documents="concat",
                limit=limit,
            )
        )
        for rank in range(dp_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    rows = [
        row.tolist()
        for batches in zip(*ranks, strict=True)
        for batch in batches
        for row, mask in zip(batch.tokens, batch.loss_mask, strict=True)
        if mask.any()
    ]
    windows = np.zeros((total, S + 1), np.int64)
    dataset.read("a", np.arange(total), S, windows)
    count = total if limit is None else min(limit, total)
    assert rows == windows[np.arange(count) * total // count, :-1].tolist()


def test_a_corpus_smaller_than_one_sample_is_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    small = TokenDataset.open(make_dataset([("tiny", [[5, 6, 7]])]))
    with pytest.raises(UserError, match="'tiny' is smaller than one sample"):
        _loader(small)
    with pytest.raises(UserError, match="'tiny' is smaller than one sample"):
        next(
            sequential_batches(
                small,
                "tiny",
                sequence_length=S,
                micro_batch=1,
                dp_rank=0,
                dp_size=1,
                documents="start",
                limit=None,
            )
        )
