"""A dataset on object storage: an S3 server that runs here, from its refusals to a run's batches."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.registry import _registry

from data_tools.packing import pack
from megatrain.config import Config, parse_config, to_yaml
from megatrain.data import files as files_module
from megatrain.data.batch import RankBatch
from megatrain.data.loader import Loader
from megatrain.data.mixture import TokenMixture, cache_of, tokenizer_folder_of
from megatrain.data.tokenizer import Tokenizer
from megatrain.data.training import TrainingSamples, open_loader
from megatrain.errors import FailedWork, UserError
from megatrain.train.preflight import prepare_run
from tests.checkpoint.test_place import Server, fresh_fs
from tests.checkpoint.test_place import no_waiting as no_waiting  # fixtures
from tests.checkpoint.test_place import s3 as s3
from tests.checkpoint.test_place import server as server
from tests.distributed.corpus import corpus as corpus
from tests.distributed.corpus import run_config

URL = "s3://bucket/data/web"
S = 32


@pytest.fixture
def bucket(corpus: Path, s3: Server, tmp_path: Path) -> Server:
    """A prepared dataset of two sources, with a packing plan, in the bucket."""
    local = tmp_path / "local"
    shutil.copytree(corpus, local)
    pack(local / "train", S)
    fresh_fs().put(str(local), "bucket/data/web", recursive=True)
    s3.asked.clear()
    return s3


def config_of(tmp_path: Path, *overrides: str, url: str = URL) -> Config:
    return run_config(Path("x"), tmp_path / "run", f"data.sources=[{{path: '{url}'}}]", *overrides)


def cached(tmp_path: Path, *overrides: str, url: str = URL) -> Config:
    return config_of(tmp_path, f"data.cache.folder={tmp_path / 'cache'}", *overrides, url=url)


def open_run(config: Config) -> tuple[TrainingSamples, Loader]:
    samples = TrainingSamples(TokenMixture.open(config.data, "train"), config.data)
    return samples, open_loader(samples, samples.order(seed=3), config, dp_rank=0, dp_size=1)


def batches(config: Config, steps: int = 6) -> list[RankBatch]:
    _, loader = open_run(config)
    found = [loader.batch(step * config.train.global_batch) for step in range(steps)]
    loader.close()
    return found


def assert_equal(ones: list[RankBatch], others: list[RankBatch]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert np.array_equal(one.sample_ids, other.sample_ids)
        for micro, same in zip(one.micro_batches, other.micro_batches, strict=True):
            for name in ("tokens", "labels", "positions", "loss_mask"):
                assert getattr(micro, name).equal(getattr(same, name))


def shards_asked(server: Server) -> list[str]:
    paths = [target.partition("?")[0] for method, target in server.asked if method == "GET"]
    return [path.rpartition("/")[2] for path in paths if path.endswith(".arrow")]


def copies(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache" / "files").rglob("*") if path.is_file())


# --- reading ---


@pytest.mark.parametrize(
    "options", [(), ("data.packing=best_fit",), ("data.shuffle.kind=block", "data.shuffle.block=4")]
)
def test_batches_are_those_of_the_local_dataset(
    bucket: Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    remote = cached(tmp_path, *options)
    local = config_of(tmp_path, *options, url=str(tmp_path / "local"))
    assert_equal(batches(remote), batches(local))
    plans = 2 if "data.packing=best_fit" in options else 0
    names = ["shard-00000.arrow", "shard-00001.arrow"]
    assert sorted(shards_asked(bucket)) == sorted(names * (2 if plans else 1)), "each whole, and once"
    bucket.asked.clear()
    assert_equal(batches(remote), batches(local))
    assert shards_asked(bucket) == [], "the copies are still there"
    # The fingerprint is that of the data, wherever they lie.
    assert open_run(remote)[0].fingerprint(open_run(remote)[1]._order) == open_run(local)[0].fingerprint(
        open_run(local)[1]._order
    )


def test_the_tokenizer_comes_along(bucket: Server, tmp_path: Path) -> None:
    config = cached(tmp_path)
    mixture = TokenMixture.open(config.data, "train")
    local = Tokenizer.load(tmp_path / "local")
    assert mixture.tokenizer().hash == local.hash == mixture.tokenizer_hash
    assert Tokenizer.load(tokenizer_folder_of(URL, config.data)).hash == local.hash
    assert tokenizer_folder_of(f"file://{tmp_path}/local", config.data) == tmp_path / "local"
    prepared = prepare_run(cached(tmp_path, "evaluate.every=5"), 2)
    assert prepared.tokenizer.hash == local.hash and prepared.validation is not None
    out = np.empty((1, S + 1), np.int64)
    prepared.validation.read("prose", np.array([0]), S, out)


# --- a cache smaller than the data ---


def many_shards(tmp_path: Path, count: int = 12) -> Path:
    """A dataset of as many shards of one size; shard n holds only the id n + 10."""
    from tests.data.conftest import make_split

    return make_split(tmp_path / "many" / "train", [("a", [[n + 10] * 640]) for n in range(count)])


def small_cache(tmp_path: Path, split: Path, *overrides: str, shards: float) -> Config:
    """With room for so many shards."""
    size = (split / "shard-00000.arrow").stat().st_size
    fresh_fs().put(str(split.parent), "bucket/many", recursive=True)
    gib = f"data.cache.gib={size * shards / 2**30!r}"
    return cached(tmp_path, gib, "train.global_batch=8", *overrides, url="s3://bucket/many")


BLOCKS = ("data.shuffle.kind=block", "data.shuffle.block=10", "data.shuffle.window=2")


def test_a_small_cache_serves_a_block_shuffle(s3: Server, tmp_path: Path) -> None:
    split = many_shards(tmp_path)
    config = small_cache(tmp_path, split, *BLOCKS, "data.cache.ahead=1", shards=6.1)
    samples, loader = open_run(config)
    samples.require_room(["a"])
    cache = cache_of(config.data)
    local = batches(config_of(tmp_path, *BLOCKS, "train.global_batch=8", url=str(split.parent)), steps=30)
    found = []
    for step in range(30):
        found.append(loader.batch(8 * step))
        with cache._locked("room"):
            assert sum(path.stat().st_size for path in copies(tmp_path)) <= cache.limit_bytes
    loader.close()
    assert_equal(found, local)
    # 30 steps are an epoch: each shard, 20 windows or two blocks, is needed at most twice.
    assert len(shards_asked(s3)) <= 2 * 12


def test_a_cache_too_small_for_the_shuffle_is_refused(s3: Server, tmp_path: Path) -> None:
    split = many_shards(tmp_path)
    for options, shards, mend in (
        ((), 11, "set data.shuffle.kind=block"),
        ((*BLOCKS,), 4, "lower data.shuffle.window"),
    ):
        config = small_cache(tmp_path, split, *options, shards=shards)
        samples, loader = open_run(config)
        loader.close()
        with pytest.raises(UserError, match=rf"data.cache.gib .* take up to .* raise it, or {mend}"):
            samples.require_room(["a"])


def test_shards_are_fetched_before_they_are_needed(s3: Server, tmp_path: Path) -> None:
    split = many_shards(tmp_path)
    config = small_cache(tmp_path, split, *BLOCKS, "data.cache.ahead=3", shards=20)
    samples, loader = open_run(config)
    needed = samples.shards_of("a", samples.order(seed=3).locate(0, 240).window, S).tolist()
    loader.batch(0)  # three batches are made at once
    wait_for(lambda: {int(path.name[6:11]) for path in copies(tmp_path)} > set(needed[:24]))
    assert len(copies(tmp_path)) < 12, "not all at once"
    for step in range(1, 30):
        loader.batch(8 * step)
    loader.close()
    assert sorted(set(shards_asked(s3))) == sorted(shards_asked(s3)), "each once"


def test_a_rank_without_rows_looks_for_nothing(bucket: Server, tmp_path: Path) -> None:
    config = cached(tmp_path, "train.global_batch=2", "train.micro_batch=2")
    samples = TrainingSamples(TokenMixture.open(config.data, "train"), config.data)
    loader = open_loader(samples, samples.order(seed=3), config, dp_rank=1, dp_size=2)
    assert (loader.batch(0).sample_ids == -1).all()
    loader.close()
    assert shards_asked(bucket) == []


def wait_for(condition: Any, timeout_s: float = 20.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


# --- errors ---


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, no_waiting: None) -> None:
    monkeypatch.setattr(files_module, "FIRST_WAIT_S", 1e-3)
    monkeypatch.setattr(files_module, "LONGEST_WAIT_S", 1e-2)


def test_a_server_that_recovers_is_borne(bucket: Server, tmp_path: Path, impatient: None) -> None:
    config = cached(tmp_path, "data.cache.ahead=0")
    local = config_of(tmp_path, url=str(tmp_path / "local"))
    _, loader = open_run(config)
    # More refusals than the reading of object storage alone would bear.
    bucket.refuse_next(20, "GET", ".arrow", "503 SlowDown")
    assert_equal([loader.batch(0)], batches(local, steps=1))
    loader.close()


def test_a_server_that_does_not_recover_is_told(bucket: Server, tmp_path: Path, impatient: None) -> None:
    config = cached(tmp_path, "data.cache.ahead=1", "data.retry_s=0.5")
    _, loader = open_run(config)
    bucket.refuse_next(10**6, "GET", ".arrow", "500 InternalError")
    with pytest.raises(
        FailedWork, match=rf"{URL}/train/shard-0000.\.arrow: cannot be read: .*tried for 0\.5 s"
    ) as told:
        loader.batch(0)
    loader.close()
    assert "\n" not in str(told.value) and "very-secret" not in str(told.value)


def test_damage_is_told(bucket: Server, tmp_path: Path, impatient: None) -> None:
    fs, name = fresh_fs(), "bucket/data/web/train/shard-00000.arrow"
    content = bytearray(fs.cat_file(name))
    opened = cached(tmp_path, "data.retry_s=0.2", "data.cache.ahead=0")
    _, loader = open_run(opened)
    content[len(content) // 2] ^= 1
    fs.pipe_file(name, bytes(content))
    with pytest.raises(FailedWork, match=r"shard-00000\.arrow: cannot be read: arrived with hash"):
        loader.batch(0)
    fs.pipe_file(name, bytes(content[:-10]))
    with pytest.raises(FailedWork, match=r"shard-00000\.arrow: shard cut short or changed"):
        loader.batch(0)
    # Sizes are seen before work begins.
    with pytest.raises(FailedWork, match=rf"{URL}/train/shard-00000\.arrow: shard cut short or changed"):
        open_run(opened)
    fs.rm(name)
    with pytest.raises(FailedWork, match=r"shard-00000\.arrow: cannot be read: No such object; restore it"):
        loader.batch(0)
    with pytest.raises(FailedWork, match=rf"{URL}/train/shard-00000\.arrow: shard missing"):
        open_run(opened)
    assert open_run(cached(tmp_path, "data.verify=none", "data.cache.ahead=0"))
    loader.close()


def test_bad_input(bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(config: Config) -> str:
        with pytest.raises(UserError) as told:
            TokenMixture.open(config.data, "train")
        assert "\n" not in str(told.value) and "very-secret" not in str(told.value)
        return str(told.value)

    with pytest.raises(UserError, match=r"data\.sources: s3://.* lies on object storage: name a folder"):
        config_of(tmp_path)
    assert "not a dataset, or one whose preparation did not end" in refused(
        cached(tmp_path, url="s3://bucket/none")
    )
    assert "No such bucket" in refused(cached(tmp_path, url="s3://other/web"))
    assert "there is no protocol s4" in refused(cached(tmp_path, url="s4://bucket/web"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fresh_fs()
    assert "train is refused: " in refused(cached(tmp_path))
    _registry.pop("s3")
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "s3fs"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "s3fs", None)
        assert "pip install -c constraints.txt -e '.[remote]'" in refused(cached(tmp_path))


def test_the_config_is_kept_as_it_was(tmp_path: Path) -> None:
    config = cached(tmp_path, *BLOCKS)
    assert parse_config(to_yaml(config)) == config
