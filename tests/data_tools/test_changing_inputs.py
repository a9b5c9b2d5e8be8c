"""A file that changes while it is read is of no one content: the work fails, and a rerun does it again."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import collect, pipeline, prepare, tokenize
from data_tools.collected import CollectedWriter
from data_tools.config import DataConfig
from data_tools.progress import Progress
from data_tools.readers import Source, find_files, read_documents
from megatrain.errors import FailedWork

QUIET = Progress(io.StringIO())


def rows(word: str, count: int = 120) -> str:
    words = np.random.default_rng(len(word)).choice(["sea1", "rose1", "oak", "hill", "star"], (count, 30))
    return "".join(
        json.dumps({"text": f"{word} {n} {' '.join(line)}"}) + "\n" for n, line in enumerate(words)
    )


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    for name in ("first", "other"):
        (tmp_path / f"{name}.jsonl").write_text(rows(name))
    (tmp_path / "bad.txt").write_text("zzzz\n")
    return DataConfig(
        output=str(tmp_path / "out"),
        where={"engine": "local", "workers": 1},
        sources={name: {"files": [str(tmp_path / f"{name}.jsonl")]} for name in ("first", "other")},
        steps=[{"bad_words": {"file": str(tmp_path / "bad.txt")}}],
        split={"validation": 0.1, "test": 0.0},
        tokenizer={"vocab_size": 300},
    )


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write(rows("late", 3))


def rewrite(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "2"))


def replace(path: Path) -> None:
    """Another file of the same size and time."""
    before = path.stat()
    new = path.with_name("new")
    new.write_text(path.read_text().replace("1", "2"))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)


def once(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, change: Callable[[], None]) -> None:
    """Have a change happen before the first call of a function."""
    real, changes = getattr(place, name), [change]

    def patched(*arguments: Any, **options: Any) -> Any:
        if changes:
            changes.pop()()
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, patched)


@pytest.mark.parametrize("change", [append, rewrite, replace, Path.unlink])
@pytest.mark.parametrize("when", [(CollectedWriter, "add"), (pipeline, "find_duplicates")])
def test_a_raw_file_that_changes_ends_the_work(
    config: DataConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: tuple[Any, str],
    change: Callable[[Path], None],
) -> None:
    path = tmp_path / "first.jsonl"
    with monkeypatch.context() as patch:
        once(patch, *when, lambda: change(path))
        with pytest.raises(
            FailedWork, match=r"first\.jsonl: (changed|was replaced|cannot be looked at)"
        ) as told:
            prepare.prepare(config, QUIET)
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()
    tokenize._tokenizer.cache_clear()  # as another process has it
    if change is Path.unlink:
        path.write_text(rows("first"))
    prepare.prepare(config, QUIET)
    elsewhere = config.model_copy(update={"output": str(tmp_path / "fresh")})
    prepare.prepare(elsewhere, QUIET)
    for file in (tmp_path / "fresh").rglob("*.arrow"):
        assert file.read_bytes() == (tmp_path / "out" / file.relative_to(tmp_path / "fresh")).read_bytes()


def test_a_file_of_a_step_that_changes_ends_the_work(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bad.txt"
    for place, name in ((collect, "collect"), (pipeline, "find_duplicates")):
        with monkeypatch.context() as patch:
            once(patch, place, name, lambda: path.write_text(path.read_text() + "yyyy\n"))
            with pytest.raises(FailedWork, match=r"bad\.txt: changed while the work ran"):
                prepare.prepare(config, QUIET)
    assert prepare.prepare(config, QUIET).made_now


def test_what_changed_is_said_before_that_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and nothing of a table, PAR1")
    (part,) = find_files("s", Source(files=(str(path),)))
    path.write_bytes(b"PAR1 and less, PAR1")
    with pytest.raises(FailedWork, match=r"a\.parquet: changed .*: it had 33 bytes, it has 19"):
        list(read_documents(part, Source(files=(str(path),)), "s"))
