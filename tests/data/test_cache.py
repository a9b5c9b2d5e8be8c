"""Copies of remote files: whole or not there, no more than the cache may hold, fetched once by all."""

import errno
import os
import threading
from pathlib import Path

import fsspec
import pytest
import xxhash
from fsspec.implementations.memory import MemoryFileSystem

from megatrain import remote as remote_module
from megatrain.data import cache as cache_module
from megatrain.data.cache import Cache, CachedFolder, Known
from megatrain.errors import FailedWork
from megatrain.remote import RemoteFolder

SIZE = 1000


def content(name: str) -> bytes:
    return (name.encode() * SIZE)[:SIZE]


class Bucket:
    """Files in memory, and how often each is asked for."""

    def __init__(self) -> None:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
        self.fs = fsspec.filesystem("memory")
        self.asked: list[str] = []

    def put(self, name: str, data: bytes) -> None:
        self.fs.pipe_file(f"/bucket/{name}", data)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket, real = Bucket(), MemoryFileSystem.cat_file

    def cat_file(
        self: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None
    ) -> bytes:
        bucket.asked.append(path.rpartition("/")[2])
        return real(self, path, start=start, end=end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    monkeypatch.setattr(remote_module, "FIRST_WAIT_S", 1e-3)
    for name in "abcdef":
        bucket.put(name, content(name))
    return bucket


def folder_of(root: Path, files: int = 3, names: str = "abcdef") -> CachedFolder:
    """With room for so many files."""
    folder = CachedFolder(Cache(root, files * SIZE + 1), RemoteFolder("memory://bucket"), "key")
    for name in names:
        folder.know(name, SIZE, xxhash.xxh3_128_hexdigest(content(name)))
    return folder


def held(root: Path) -> set[str]:
    return {path.name for path in (root / "files").rglob("*") if path.is_file()}


def read(folder: CachedFolder, name: str) -> bytes:
    with folder.open(name) as file:
        return file.read()


def test_each_file_is_fetched_once(bucket: Bucket, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert folder.fetch("a") and not folder.fetch("a")
    assert read(folder, "a") == content("a") and bucket.asked == ["a"]
    # Another process finds it.
    assert read(folder_of(tmp_path), "a") == content("a") and bucket.asked == ["a"]
    assert held(tmp_path) == {"a"}


def test_what_was_used_longest_ago_makes_room(bucket: Bucket, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for second, name in enumerate("abc"):
        folder.fetch(name)
        os.utime(tmp_path / "files" / "key" / name, (second, second))
    folder.fetch("a")  # used just now
    folder.fetch("d")
    assert held(tmp_path) == {"a", "c", "d"}
    for name in "efabcdeef":
        assert read(folder, name) == content(name)
        assert len(held(tmp_path)) == 3


def test_a_large_file_comes_in_ranges(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "RANGE_BYTES", 300)
    assert read(folder_of(tmp_path), "a") == content("a")
    assert bucket.asked == ["a"] * 4


def test_a_file_larger_than_the_cache_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match=rf"{tmp_path}: a of 1,000 bytes is larger .*raise data.cache.gib"):
        folder_of(tmp_path, files=0).fetch("a")
    assert held(tmp_path) == set()


def test_a_file_that_is_open_outlives_its_copy(bucket: Bucket, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, files=1)
    with folder.open("a") as file:
        folder.fetch("b")
        assert held(tmp_path) == {"b"} and file.read() == content("a")


def test_damage_on_the_way_is_found(bucket: Bucket, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    bucket.put("a", content("b"))
    with pytest.raises(OSError, match=r"arrived with hash .*, the manifest says"):
        folder.fetch("a")
    bucket.put("a", content("a")[:700])
    with pytest.raises(FailedWork, match=r"memory://bucket/a: shard cut short .* at byte 700, .* 1,000"):
        folder.fetch("a")
    bucket.fs.rm("/bucket/a")
    with pytest.raises(FileNotFoundError, match=r"No such object.*memory://bucket/a"):
        folder.fetch("a")
    assert held(tmp_path) == set(), "nothing half-written stays"
    bucket.put("a", content("a"))
    assert read(folder, "a") == content("a")


def test_a_full_disk_is_told(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FailedWork, match=r"the disk has no room for a copy of memory://bucket/a; lower"):
        folder_of(tmp_path).fetch("a")
    assert held(tmp_path) == set()


def test_what_a_killed_process_left_is_replaced_and_makes_room(bucket: Bucket, tmp_path: Path) -> None:
    folder, home = folder_of(tmp_path, files=2), tmp_path / "files" / "key"
    home.mkdir(parents=True)
    (home / "a.partial").write_bytes(b"x" * 300)
    assert read(folder, "a") == content("a") and held(tmp_path) == {"a"}
    (home / "b.partial").write_bytes(b"x" * SIZE)
    folder.fetch("c")
    assert held(tmp_path) == {"a", "c"}


def test_what_another_rank_is_fetching_is_waited_for(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, waits = folder_of(tmp_path, files=1), list[float]()
    path = tmp_path / "files" / "key" / "b"
    path.parent.mkdir(parents=True)
    path.with_suffix(".partial").write_bytes(b"x" * SIZE)
    # Files share locks by chance, and one process would wait for itself.
    monkeypatch.setattr(cache_module, "_stripe", lambda path: path.name)
    other = folder.cache._locked(cache_module._stripe(path))
    other.__enter__()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.__exit__(None, None, None)

    monkeypatch.setattr(cache_module.time, "sleep", wait)
    assert read(folder, "a") == content("a") and len(waits) == 3
    assert held(tmp_path) == {"a"}


def test_many_at_once_fetch_each_file_once(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: list[str] = []

    def read_all(order: str) -> None:
        folder = folder_of(tmp_path, files=6)
        wrong.extend(name for name in order if read(folder, name) != content(name))

    threads = [threading.Thread(target=read_all, args=(order,)) for order in ("abcdef", "fedcba", "cafebd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and sorted(bucket.asked) == list("abcdef")


def test_more_readers_than_room_get_on(bucket: Bucket, tmp_path: Path) -> None:
    good: list[bool] = []

    def read_all(seed: int) -> None:
        folder = folder_of(tmp_path, files=2)
        for n in range(40):
            name = "abcdef"[(seed * n + n * n) % 6]
            good.append(read(folder, name) == content(name))

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 160 and len(held(tmp_path)) <= 2


def test_a_lock_ends_with_its_process(bucket: Bucket, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    child = os.fork()
    if child == 0:
        with cache._locked("room"):
            os._exit(0)
    os.waitpid(child, 0)
    path = tmp_path / "files" / "a"
    known = Known(SIZE, xxhash.xxh3_128_hexdigest(content("a")))
    assert cache.fetch(RemoteFolder("memory://bucket"), "a", known, path)
