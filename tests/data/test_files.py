"""Files of a dataset: read whole or not at all, tried again while there is hope, and few of them open."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from megatrain.data import files as files_module
from megatrain.data.files import File, Files, LocalFolder, most_open_files
from megatrain.errors import FailedWork

CONTENT = bytes(range(256)) * 8


class Shaky(LocalFolder):
    """A folder whose files cannot be opened as often as the test says."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.errors: list[OSError] = []
        self.opened = 0

    def open(self, name: str) -> BinaryIO:
        if self.errors:
            raise self.errors.pop()
        self.opened += 1
        return super().open(name)


@pytest.fixture
def folder(tmp_path: Path) -> Shaky:
    for name in "abcdef":
        (tmp_path / name).write_bytes(CONTENT)
    return Shaky(tmp_path)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, on a clock that only waiting moves."""
    waited: list[float] = []
    monkeypatch.setattr(files_module.time, "sleep", waited.append)
    monkeypatch.setattr(files_module.time, "monotonic", lambda: sum(waited))
    return waited


def files_of(folder: LocalFolder, *, most_open: int = 4, retry_s: float = 60.0) -> Callable[[str], File]:
    files = Files(folder, most_open=most_open, retry_s=retry_s)
    return lambda name: File(files, name)


def read(file: File, offset: int, size: int) -> bytes:
    out = bytearray(size)
    file.read_into(offset, memoryview(out))
    return bytes(out)


def test_any_place_of_a_file(folder: Shaky) -> None:
    file = files_of(folder)("a")
    for offset, size in ((0, 2048), (1, 7), (2047, 1), (5, 0)):
        assert read(file, offset, size) == CONTENT[offset : offset + size]
    assert folder.opened == 1


def test_a_read_that_gives_less_goes_on(folder: Shaky, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: whole(fd, [buffers[0][:100]], at))
    assert read(files_of(folder)("a"), 3, 1000) == CONTENT[3:1003]


def test_errors_of_a_while_are_borne(folder: Shaky, waits: list[float]) -> None:
    folder.errors = [OSError(errno.EIO, "Input/output error") for _ in range(5)]
    assert read(files_of(folder)("a"), 0, 10) == CONTENT[:10]
    assert waits == [0.25, 0.5, 1, 2, 4], "with growing waits"


def test_a_stale_handle_is_opened_again(folder: Shaky, monkeypatch: pytest.MonkeyPatch) -> None:
    file = files_of(folder)("a")
    read(file, 0, 1)
    stale = file.stream
    assert stale is not None
    number, real = stale.fileno(), os.preadv

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if descriptor == number and file.stream is stale:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    assert read(file, 4, 4) == CONTENT[4:8]
    assert folder.opened == 2 and file.stream is not stale


def test_errors_that_last_name_the_file(folder: Shaky, waits: list[float]) -> None:
    folder.errors = [OSError(errno.EIO, "Input/output error") for _ in range(99)]
    with pytest.raises(FailedWork, match=rf"^{folder}/a: cannot be read: Input/output .*tried for 30 s\)$"):
        read(files_of(folder, retry_s=30)("a"), 0, 10)
    assert 20 < sum(waits) <= 30 and max(waits) == 8


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), "a: cannot be read: No such file; restore it"),
        (PermissionError(errno.EACCES, "Permission denied"), "a: cannot be read: Permission denied"),
    ],
)
def test_what_waiting_does_not_mend_is_told_at_once(
    folder: Shaky, waits: list[float], error: OSError, told: str
) -> None:
    folder.errors = [error]
    with pytest.raises(FailedWork, match=told):
        read(files_of(folder)("a"), 0, 10)
    assert not waits


def test_a_file_that_ends_early_is_told_at_once(folder: Shaky, waits: list[float], tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match=r"a: shard cut short while in use: it ends at byte 2,048"):
        read(files_of(folder)("a"), 2000, 100)
    assert not waits


def test_few_files_are_open(folder: Shaky) -> None:
    make = files_of(folder, most_open=3)
    every = [make(name) for name in "abcdef"]
    for file in [*every, *every]:
        assert read(file, 7, 9) == CONTENT[7:16]
        assert sum(other.stream is not None for other in every) <= 3
    assert every[-1].stream is not None and folder.opened == 12


@pytest.fixture
def forgetful(folder: Shaky) -> Shaky:
    folder.forgets = True
    return folder


def test_files_that_were_removed_are_let_go(forgetful: Shaky, tmp_path: Path) -> None:
    make = files_of(forgetful)
    one, other, third = make("a"), make("b"), make("c")
    for file in (one, other):
        read(file, 0, 1)
    (tmp_path / "a").unlink()
    read(third, 0, 1)
    assert one.stream is None and other.stream is not None


def test_what_will_soon_be_read_is_asked_for(folder: Shaky, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *span: asked.append(span))
    file = files_of(folder)("a")
    file.advise(100, 50)
    assert asked == [(100, 50, os.POSIX_FADV_WILLNEED)] and folder.opened == 1
    assert read(file, 100, 50) == CONTENT[100:150] and folder.opened == 1
    # What cannot be opened is told when it is read; nothing is fetched from afar for it.
    folder.errors = [OSError(errno.EIO, "Input/output error")]
    files_of(folder)("b").advise(0, 1)
    folder.forgets = True
    files_of(folder)("c").advise(0, 1)
    assert len(asked) == 1 and folder.opened == 1


def test_the_system_is_left_most_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, folders, most in ((1024, 1, 256), (1024, 4, 64), (10**6, 1, 4096), (8, 9, 1), (-1, 1, 1024)):
        monkeypatch.setattr(files_module.resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert most_open_files(folders) == most
