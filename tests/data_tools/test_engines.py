"""One preparation on every engine gives the same files; what ends a task is told by the engine that ran
it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.config import DataConfig
from data_tools.datasets.lineage import lineage_of
from data_tools.prepare import prepare
from data_tools.progress import Progress
from data_tools.where import Local, Ray, Slurm
from megatrain.data.shard import read_shard
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError

QUIET = Progress(io.StringIO())
REPOSITORY = Path(__file__).parents[2]


def config_in(folder: Path, files: int = 5) -> DataConfig:
    """Some files of random words; each is a task."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aeionrst"), 4)) for _ in range(60)]
    for number in range(files):
        texts = [f"{number} {n} " + " ".join(rng.choice(words, 30)) for n in range(40)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        padding = json.dumps({"padding": "x" * (1 << 20)}) + "\n"
        (folder / f"{number}.jsonl").write_text(lines + padding)
    return DataConfig(
        output=str(folder / "out"),
        task_mib=1,
        where=Local(workers=1),
        sources={"words": {"files": [str(folder / "?.jsonl*")]}},
        tokenizer={"vocab_size": 320},
        shards={"max_tokens": 3000},
    )


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def with_engine(config: DataConfig, output: str, where: Any) -> DataConfig:
    return config.model_copy(update={"output": str(Path(config.output).with_name(output)), "where": where})


def test_ray_gives_what_this_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice: the second time a file is broken, and its task's error comes back in one line."""
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    config = config_in(tmp_path)
    alone = prepare(config, QUIET).folder
    there = prepare(with_engine(config, "ray", Ray(engine="ray")), QUIET).folder
    assert files_of(there) == files_of(alone)
    (tmp_path / "9.jsonl.gz").write_bytes(gzip.compress((tmp_path / "0.jsonl").read_bytes())[:-9])
    with pytest.raises((UserError, FailedWork), match=r"9\.jsonl\.gz"):
        prepare(with_engine(config, "broken", Ray(engine="ray")), QUIET)


def test_slurm_without_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"where\.engine=slurm: no sbatch on this machine"):
        prepare(with_engine(config_in(tmp_path, 1), "slurm", Slurm(engine="slurm")), QUIET)


def test_killed_workers_and_full_disks_are_told_and_cost_one_task(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    path = tmp_path / "data.yaml"
    for workers, fault, message in (
        (2, "point=data.task,rank=3,hit=1+,do=kill", "a worker process was killed"),
        (1, "point=data.task,rank=3,hit=1+,do=full", "collect, task 3: [Errno 28] No space left on device"),
    ):
        path.write_text(config.model_copy(update={"where": Local(workers=workers)}).model_dump_json())
        done = subprocess.run(
            [sys.executable, "-m", "data_tools.prepare", str(path)],
            cwd=REPOSITORY,
            env={**os.environ, "MEGATRAIN_FAULT": fault},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and message in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
    said = io.StringIO()
    folder = prepare(config, Progress(said)).folder
    # Those before it, and perhaps some that the other worker had done when the first was killed.
    assert re.search(r"collect: [3-9] of 10 tasks were done before", said.getvalue())
    assert files_of(folder) == files_of(prepare(with_engine(config, "again", Local(workers=1)), QUIET).folder)


def test_pages_to_shards_with_what_is_known_of_each(tmp_path: Path) -> None:
    """A crawl of two languages: what is dropped can be read, what is kept knows its address."""
    english = (
        "<p>" + "The quick brown fox jumps over the lazy dog, and then it goes home again. " * 8 + "</p>"
    )
    chinese = "<p>" + "敏捷的棕色狐狸跳过了那只懒狗，然后它就回家去了。" * 8 + "</p>"
    pages = {f"en{n}": f"<h1>Story {n}</h1>{english}" for n in range(30)} | {"zh": chinese, "empty": ""}
    with (tmp_path / "crawl.warc").open("wb") as stream:
        for name, body in pages.items():
            page = f"<html><body><main>{body}</main></body></html>".encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org/{name}\r\n"
                "WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
                f"Content-Length: {len(answer)}\r\n\r\n"
            )
            stream.write(head.encode() + answer + b"\r\n\r\n")
    tree = {
        "output": str(tmp_path / "out"),
        "where": {"workers": 1},
        "sources": {"crawl": {"files": [str(tmp_path / "crawl.warc")]}},
        "steps": [{"extract": {}}, {"clean": {}}, {"length": {}}, {"language": {"keep": ["en"]}}],
        "split": {"validation": 0, "test": 0},
        "tokenizer": {"vocab_size": 340},
    }
    prepared = prepare(DataConfig.model_validate(tree), QUIET)
    made = prepared.splits["train"].made
    assert made["counts"]["crawl"]["kept"] == 30 and made["languages"]["crawl"] == {"en": 30}
    assert made["counts"]["crawl"]["language.unwanted"] == 1 and made["counts"]["crawl"]["read"] == 32
    dropped = [json.loads(line) for line in (prepared.folder / "dropped" / "crawl.jsonl").open()]
    (unwanted,) = [one for one in dropped if one["reason"] == "language.unwanted"]
    assert "棕色狐狸" in unwanted["text"]
    shard = prepared.folder / "train" / "shard-00000.arrow"
    ids = [document.doc_id for document in read_shard(shard)]
    known = lineage_of(shard, range(30), ids)
    assert known is not None and {one.language for one in known} == {"en"}
    urls = {json.loads(one.metadata or "")["url"] for one in known}
    assert urls == {f"https://example.org/en{n}" for n in range(30)}
    plain = {**tree, "steps": [{"clean": {}}], "overwrite": True}
    with pytest.raises(UserError, match=r'warc files hold pages, no step makes text .* "extract: \{\}"'):
        prepare(DataConfig.model_validate(plain), QUIET)
