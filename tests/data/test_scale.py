"""A trillion tokens in ten thousand shards: opened at once, in little memory, any sample found at once.

The shards are sparse files, so that they take no room. The bounds are wide, for a busy machine; what was
measured is in docs/data/loading.md.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatrain.data.manifest import Manifest, ShardInfo, TokenizerInfo, write_manifest

SHARDS = 10_000
TOKENS = 100_000_000  # of each
OFFSET = 512
LOOK = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from megatrain.config import DataConfig
from megatrain.data.mixture import TokenMixture
from megatrain.data.order import BLOCK
from megatrain.data.rows import Rows
from megatrain.data.training import TrainingSamples

def memory_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

def peak_mib():
    # Not ru_maxrss: a process begins with that of the one that started it.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024

config = DataConfig.model_validate(json.loads(sys.argv[1]))
memory, began = memory_mib(), time.process_time()
mixture = TokenMixture.open(config, "train")
samples = TrainingSamples(mixture, config)
order = samples.order(seed=1)
opened_s, began = time.process_time() - began, time.process_time()
rows, far = Rows(64, config.sequence_length + 1, samples.dtype, 0, samples.vocab_size), []
for place in (0, 123_456_789, 450_000_000, 3 * 10**11):
    found = order.locate(place, 64)
    for which, source in enumerate(order.sources):
        rows.fill(samples.reads(source, found.window[found.source == which], 2048), samples.shard_files)
    assert not rows.tokens.any()
    far.append(int(found.epoch.max()))
told = {
    "tokens": sum(dataset.tokens(s) for dataset in mixture.datasets for s in dataset.sources),
    "sizes": dict(zip(order.sources, order.sizes)),
    "epochs": far,
    "opened_s": opened_s,
    "seek_s": (time.process_time() - began) / 4,
    "memory_mib": memory_mib() - memory,
    "peak_mib": peak_mib(),
    "open_files": sum(dataset.files.open_count for dataset in mixture.datasets),
}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("trillion")
    split = home / "train"
    split.mkdir()
    size = OFFSET + 2 * TOKENS
    shards = []
    for number in range(SHARDS):
        name = f"shard-{number:05d}.arrow"
        with (split / name).open("wb") as file:
            file.truncate(size)
        source = ("web", "web", "web", "code", "books")[number % 5]
        hash_ = f"{number:032x}"
        shards.append(ShardInfo(name, source, 100_000, TOKENS, 4 * TOKENS, size, OFFSET, hash_, hash_))
    tokenizer = TokenizerInfo("sentencepiece", "0" * 32, 32_000, 2, 1)
    write_manifest(split, Manifest("train", "uint16", tokenizer, tuple(shards)))
    return home


def test_a_trillion_tokens(folder: Path) -> None:
    phases = [
        {"from_tokens": 0, "weights": {"web": 8, "code": 1, "books": 1}},
        {"from_tokens": 5e11, "weights": {"web": 1, "code": 1, "books": 1}},
        {"from_tokens": 9e11, "weights": {"books": 3, "code": 1}},
    ]
    data = {"sources": [{"path": str(folder)}], "phases": phases, "sequence_length": 2048}
    ran = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(data)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    print(told)  # pytest -s shows it
    assert told["tokens"] == 10**12
    windows = (TOKENS - 1) // 2048
    assert told["sizes"] == {"web": 6000 * windows, "code": 2000 * windows, "books": 2000 * windows}
    assert told["epochs"][-1] > 1000 and told["open_files"] <= 256
    assert told["opened_s"] < 10, "two seconds on a machine that does nothing else"
    assert told["seek_s"] < 1
    assert told["memory_mib"] < 150 and told["peak_mib"] < 700


def test_the_manifest_is_small(folder: Path) -> None:
    assert (folder / "train" / "manifest.json").stat().st_size < 8 * 2**20
    assert np.prod([SHARDS, TOKENS]) == 10**12
