"""One set of laws for all places: a folder, fsspec's memory, and an S3 server that runs here."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
from botocore.retries.standard import ExponentialBackoff
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wsgi import get_input_stream

from megatrain import remote as remote_module
from megatrain.checkpoint import place as place_module
from megatrain.checkpoint.place import LocalPlace, Place, RemotePlace, blocks, open_place

ANSWER = "<Error><Code>{code}</Code><Message>{code}, as the test wants</Message></Error>"


class Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


@dataclass
class Server:
    """S3 on the loopback, which refuses what the test says."""

    port: int = 0
    refuse: Callable[[str, str], str | None] = lambda method, target: None
    """Of a method and a path with its query: the status with which it is refused, or None."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What a user would set."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "a-key",
            "AWS_SECRET_ACCESS_KEY": "very-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def refuse_next(self, count: int, method: str, what: str = "", status: str = "503 SlowDown") -> None:
        """The next so many of a method whose path has this in it."""

        def refuse(asked: str, target: str) -> str | None:
            nonlocal count
            if asked != method or what not in target or count == 0:
                return None
            count -= 1
            return status

        self.refuse = refuse

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        method, target = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        with self._lock:
            self.asked.append((method, target))
            status = self.refuse(method, target)
        if status is None:
            return self.app(environ, start)
        get_input_stream(environ).read()
        start(status, [("Content-Type", "application/xml")])
        return [] if method == "HEAD" else [ANSWER.format(code=status.partition(" ")[2]).encode()]

    def __post_init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    listening = make_server("127.0.0.1", 0, server, threaded=True, request_handler=Quiet)
    server.port = listening.server_port
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield server
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with the environment set to reach it and an empty bucket "bucket"."""
    server.refuse = lambda method, target: None
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    fs = fresh_fs()
    if fs.exists("bucket"):
        fs.rm("bucket", recursive=True)
    fs.mkdir("bucket")
    server.asked.clear()
    return server


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 1e-3)
    monkeypatch.setattr(remote_module, "FIRST_WAIT_S", 1e-3)


def fresh_fs() -> Any:
    """s3fs itself; it takes the environment as it is now."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return fsspec.filesystem("s3", use_listings_cache=False)


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "local":
            return open_place(tmp_path / "run")
        case "memory":
            MemoryFileSystem.store.clear()
            MemoryFileSystem.pseudo_dirs[:] = [""]
            return open_place("memory://bucket/run")
        case _:
            request.getfixturevalue("s3")
            return open_place("s3://bucket/run")


def views(*parts: bytes) -> Iterator[memoryview]:
    yield from map(memoryview, parts)


def test_what_was_written_is_there(place: Place) -> None:
    assert place.folders() == [] and place.files("step-1") == [] and not place.exists("step-1/a")
    place.write("step-1/a", views(b"one, ", b"two"))
    place.write("step-1/empty", views())
    place.write("step-10/b", views(b"x"))
    assert place.read("step-1/a") == b"one, two" and place.read("step-1/empty") == b""
    assert place.folders() == ["step-1", "step-10"]
    assert place.files("step-1") == ["a", "empty"] and place.files("step-10") == ["b"]
    assert place.files("step-1/a") == [] and place.files("step-2") == []
    assert place.exists("step-1/a") and place.exists("step-1/empty")
    assert not place.exists("step-1"), "a folder is no file"
    assert not place.exists("step-1/a/b") and not place.exists("step")
    # Another instance, as another rank has, sees what is new at once.
    other = open_place(str(place))
    other.write("step-1/a", views(b"new"))
    assert place.read("step-1/a") == b"new" and place.open("step-1/a").size == 3
    other.write("step-1/c", views(b"c"))
    assert place.files("step-1") == ["a", "c", "empty"]


def test_ranges_of_a_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(1000)
    place.write("f/x", views(content))
    place.write("f/empty", views())
    monkeypatch.setattr(place_module, "CHUNK_BYTES", 64)
    file = place.open("f/x")
    assert file.size == 1000
    for start, stop in ((0, 1000), (0, 0), (1, 2), (63, 193), (999, 1000), (1000, 1000)):
        out = bytearray(stop - start)
        file.read_into(start, memoryview(out))
        assert out == content[start:stop]
    for start, length in ((990, 11), (1000, 1), (5000, 1)):
        with pytest.raises(OSError, match="ends at byte"):
            file.read_into(start, memoryview(bytearray(length)))
    assert b"".join(bytes(piece) for piece in blocks(file)) == content
    file.close()
    empty = place.open("f/empty")
    assert empty.size == 0 and list(blocks(empty)) == []
    empty.close()


def test_removal(place: Place) -> None:
    for name in ("a/1", "a/2", "ab/1"):
        place.write(name, views(b"x"))
    place.remove("a/1")
    place.remove("a/1")
    assert place.files("a") == ["2"] and not place.exists("a/1")
    place.remove_folder("a")
    place.remove_folder("a")
    assert place.folders() == ["ab"] and place.files("a") == []
    place.remove("ab/1")
    place.remove_folder("ab")
    assert place.folders() == []


def test_what_is_absent(place: Place) -> None:
    place.write("a/1", views(b"x"))
    for name in ("a/2", "b/1"):
        with pytest.raises(FileNotFoundError, match=name):
            place.read(name)
        with pytest.raises(FileNotFoundError, match=name):
            place.open(name)


def test_a_failed_write_leaves_what_was_there(place: Place, tmp_path: Path) -> None:
    def broken() -> Iterator[memoryview]:
        yield memoryview(b"new, but only")
        raise OSError("gone")

    place.write("a/1", views(b"old"))
    for name in ("a/1", "a/2"):
        with pytest.raises(OSError, match="gone"):
            place.write(name, broken())
    assert place.read("a/1") == b"old" and place.files("a") == ["1"]
    if isinstance(place, LocalPlace):
        assert os.listdir(place.root / "a") == ["1"]


# --- what fails for a while ---


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch, no_waiting: None) -> tuple[RemotePlace, dict[str, int]]:
    """A place in memory, and for each method of its file system how often it fails yet."""
    MemoryFileSystem.store.clear()
    left: dict[str, int] = {}

    def failing(name: str) -> Callable[..., Any]:
        real = getattr(MemoryFileSystem, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            if left.get(name, 0):
                left[name] -= 1
                raise ConnectionResetError("the peer\nwent away")
            return real(*args, **kwargs)

        return method

    for name in ("put_file", "info", "cat_file", "ls", "rm", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, name, failing(name))
    place = open_place("memory://bucket/flaky")
    assert isinstance(place, RemotePlace)
    return place, left


CALLS: dict[str, tuple[str, Callable[[RemotePlace], object]]] = {
    "write": ("put_file", lambda place: place.write("a/2", views(b"x"))),
    "open": ("info", lambda place: place.open("a/1")),
    "exists": ("info", lambda place: place.exists("a/1")),
    "read": ("cat_file", lambda place: place.read("a/1")),
    "range": ("cat_file", lambda place: place.range("a/1", 0, 1)),
    "folders": ("ls", lambda place: place.folders()),
    "files": ("ls", lambda place: place.files("a")),
    "remove": ("rm_file", lambda place: place.remove("a/1")),
    "remove_folder": ("rm", lambda place: place.remove_folder("a")),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_fails_is_tried_again(flaky: tuple[RemotePlace, dict[str, int]], call: str) -> None:
    place, left = flaky
    method, work = CALLS[call]
    place.write("a/1", views(b"x"))
    left[method] = 100
    # One line with the URL; a listing or a look that fails is never taken for "there is nothing".
    with pytest.raises(
        OSError, match=r"the peer went away \(tried 5 times\).*memory://bucket/flaky"
    ) as caught:
        work(place)
    assert not isinstance(caught.value, FileNotFoundError | PermissionError)
    assert left[method] == 95
    left[method] = 2
    work(place)
    assert left[method] == 0


def test_waits_grow(flaky: tuple[RemotePlace, dict[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    place, left = flaky
    waits: list[float] = []
    monkeypatch.setattr(remote_module, "FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(time, "sleep", waits.append)
    left["ls"] = 100
    with pytest.raises(OSError, match="tried 5 times"):
        place.folders()
    assert len(waits) == 4 and all(a < b for a, b in itertools.pairwise(waits))
    assert 5 < sum(waits) < 10


def test_what_did_not_arrive_whole_is_put_again(
    flaky: tuple[RemotePlace, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = flaky
    real, cut = MemoryFileSystem.put_file, [True]

    def put_file(self: Any, local: str, remote: str) -> None:
        real(self, local, remote)
        if cut.pop() if cut else False:
            self.pipe_file(remote, b"cut")

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    place.write("a/1", views(b"whole, not cut"))
    assert place.read("a/1") == b"whole, not cut"


def test_staging_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        open_place("memory://bucket/run", str(tmp_path / "nowhere")).write("a/1", views(b"x"))
