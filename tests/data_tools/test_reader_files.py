"""Finding a source's files, on disks and behind URLs, and reading them from there."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from botocore.retries.standard import ExponentialBackoff
from fsspec.implementations.memory import MemoryFileSystem
from werkzeug.serving import make_server
from werkzeug.utils import send_from_directory
from werkzeug.wrappers import Request, Response

from data_tools.readers import Source, find_files, read_documents
from data_tools.readers import raw as raw_module
from megatrain.errors import FailedWork, UserError
from tests.checkpoint.test_place import Quiet, Server, fresh_fs
from tests.checkpoint.test_place import s3 as s3  # fixtures
from tests.checkpoint.test_place import server as server
from tests.data_tools.raw_files import CHINESE, ENGLISH, arrow, json_lines, parquet, texts, wet, write

NOBODY = 65534


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_module, "FIRST_WAIT_S", 1e-3)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 1e-3)


def _names(folder: Path | str, *patterns: str, **options: Any) -> list[str]:
    found = find_files("s", Source(files=tuple(f"{folder}/{one}" for one in patterns), **options))
    return [part.url.removeprefix(f"{folder}/") for part in found]


def _make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_the_order_is_that_of_the_patterns_and_of_the_names(tmp_path: Path) -> None:
    _make(tmp_path, "b.txt", "a.jsonl.gz", "sub/c.txt", "d.pdf", ".hidden.txt", "_SUCCESS.txt", "_tmp/e.txt")
    assert _names(tmp_path, "") == ["a.jsonl.gz", "b.txt", "sub/c.txt"]
    assert _names(tmp_path, "**/[b-z].txt", "b.txt", "./b.txt", "a.jsonl.gz") == [
        *("_tmp/e.txt", "b.txt", "sub/c.txt"),
        "a.jsonl.gz",
    ]
    assert _names(tmp_path, "s*") == ["sub/c.txt"], "a folder that a pattern matches is one"
    assert _names(f"file://{tmp_path}", "b.txt") == [str(tmp_path / "b.txt")]
    _make(tmp_path, "odd[1]/a.txt")
    assert _names(tmp_path, "odd[1]/a.txt") == ["odd[1]/a.txt"], "a path that is there is no pattern"


def test_the_name_tells_format_and_compression_unless_the_source_does(tmp_path: Path) -> None:
    content = json_lines([ENGLISH, CHINESE])
    for name in ("a.jsonl", "a.json.gz", "a.NDJSON.ZST", "a.jsonl.bz2", "a.jsonl.xz"):
        write(tmp_path / name.lower(), content).rename(tmp_path / name)
    write(tmp_path / "part-0.gz", content).rename(tmp_path / "part-0")
    (tmp_path / "part-1.gz").write_bytes(content)
    assert len(_names(tmp_path, "")) == 5
    assert len(_names(tmp_path, "", format="jsonl")) == 7
    for pattern, options in (
        ("a.*", {}),
        ("part-0", {"format": "jsonl", "compression": "gz"}),
        ("part-1.gz", {"format": "jsonl", "compression": "none"}),
    ):
        source = Source(files=(f"{tmp_path}/{pattern}",), **options)
        for part in find_files("s", source):
            assert texts(list(read_documents(part, source, "s"))) == [ENGLISH, CHINESE], part.url


def test_lists_of_files(tmp_path: Path) -> None:
    """As Common Crawl gives them: paths below a root, compressed."""
    _make(tmp_path, "crawl/2.txt", "crawl/1.txt", "other.txt")
    listed = write(tmp_path / "paths.gz", f"crawl/2.txt\r\n\n{tmp_path}/other.txt\ncrawl/*\n".encode())
    source = Source(files=(f"@{listed}",), root=str(tmp_path))
    found = [part.url.removeprefix(f"{tmp_path}/") for part in find_files("s", source)]
    assert found == ["crawl/2.txt", "other.txt", "crawl/1.txt"]
    for content, message in ((b"\n", "the list is empty"), (b"\xff\xfe", "no list of files")):
        write(tmp_path / "paths.gz", content)
        with pytest.raises(UserError, match=message):
            find_files("s", source)
    with pytest.raises(UserError, match="no list of files: nowhere: cannot be read: no such file"):
        find_files("s", Source(files=("@nowhere",)))


@contextmanager
def _without_rights(path: Path) -> Iterator[None]:
    """As a user to whom a file or folder is closed; root may read all."""
    root = os.geteuid() == 0
    modes = {folder: folder.stat().st_mode for folder in (path, *path.parents) if root or folder == path}
    private = [folder for folder, mode in modes.items() if folder != path and not mode & 0o001]
    for folder in private:
        folder.chmod(modes[folder] | 0o055)
    path.chmod(0)
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for one in (path, *private):
            one.chmod(modes[one])


@pytest.mark.parametrize("closed", ["sub", "sub/c.txt"])
def test_no_right_to_read(tmp_path: Path, closed: str) -> None:
    _make(tmp_path, "a.txt", "sub/c.txt")
    with _without_rights(tmp_path / closed), pytest.raises(UserError) as error:
        _names(tmp_path, "")
    message = str(error.value)
    assert closed in message and message.startswith("sources.s.files: ")
    assert "cannot be listed: Permission denied" in message or "no right to read it" in message


@pytest.mark.parametrize(
    ("patterns", "options", "message"),
    [
        (["nothing*"], {}, "files: .*nothing.*: no such file, or a folder without .txt"),
        (["nothing.txt"], {}, "files: .*nothing.txt: no such file"),
        (["d.pdf"], {}, "files: .*d.pdf: unknown kind of file; known are .txt, .*sources.s.format"),
        (["t.parquet.gz"], {}, "files: .*t.parquet.gz: a parquet file within .gz cannot be read"),
        (["empty.txt"], {}, "files: every file is empty"),
        (["gone.txt"], {}, "files: .*gone.txt: cannot be looked at: no such file"),
        (["pipe.txt"], {}, "files: .*pipe.txt: no regular file"),
        (["a.txt"], {"metadata": {"url": "url"}}, "metadata: txt files have no columns"),
        (["b.jsonl"], {"document_separator": "|"}, "document_separator: is for txt alone"),
    ],
)
def test_what_is_seen_before_work_begins(
    tmp_path: Path, patterns: list[str], options: dict[str, Any], message: str
) -> None:
    _make(tmp_path, "a.txt", "b.jsonl", "d.pdf", "t.parquet.gz")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=f"^sources.s.{message}"):
        _names(tmp_path, *patterns, **options)


# --- behind URLs ---


@pytest.fixture(params=["memory:///bucket", "s3://bucket"])
def bucket(request: pytest.FixtureRequest) -> str:
    """An empty one."""
    if request.param.startswith("s3"):
        request.getfixturevalue("s3")
    else:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
    return str(request.param)


def _put(url: str, path: Path) -> None:
    fs = fresh_fs() if url.startswith("s3") else fsspec.filesystem("memory")
    fs.pipe_file(url, path.read_bytes())


def _read(source: Source) -> list[str | None]:
    found = [list(read_documents(part, source, "s")) for part in find_files("s", source)]
    return [text for records in found for text in texts(records)]


def test_every_format_from_afar(bucket: str, tmp_path: Path) -> None:
    documents = [ENGLISH, CHINESE] * 5
    for path in (
        write(tmp_path / "a.jsonl.zst", json_lines(documents)),
        parquet(tmp_path / "b.parquet", documents),
        arrow(tmp_path / "c.arrow", documents),
        write(tmp_path / "d.wet.gz", wet(documents)),
    ):
        _put(f"{bucket}/deep/{path.name}", path)
        source = Source(files=(f"{bucket}/deep/{path.name}",))
        assert _read(source) == documents
        (part,) = find_files("s", source)
        assert part.bytes == path.stat().st_size
        assert part.content_hash() == find_files("s", Source(files=(str(path),)))[0].content_hash()
    names = ["a.jsonl.zst", "b.parquet", "c.arrow", "d.wet.gz"]
    for pattern in ("deep", "deep/", "*/*", "**/?.*"):
        assert _names(bucket, pattern) == [f"deep/{name}" for name in names], pattern
    assert _names(bucket, "deep/[ab].*") == [f"deep/{name}" for name in names[:2]]
    listed = write(tmp_path / "list", b"deep/b.parquet\ndeep/a.jsonl.zst\n")
    found = find_files("s", Source(files=(f"@{listed}",), root=f"{bucket}/"))
    assert [part.url for part in found] == [f"{bucket}/deep/b.parquet", f"{bucket}/deep/a.jsonl.zst"]
    with pytest.raises(UserError, match=r"sources.s.files: .*/none.txt: no such file or folder there"):
        _names(bucket, "none.txt")


def test_a_change_is_seen_by_a_look(s3: Server, tmp_path: Path) -> None:
    versions = []
    for text in ("one", "two", "one"):
        _put("s3://bucket/a.txt", write(tmp_path / "a.txt", text.encode()))
        versions += [part.modified for part in find_files("s", Source(files=("s3://bucket/a.txt",)))]
    assert versions[0] == versions[2] != versions[1] and all(versions)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A server of the test's folder, which gives parts of files, as those of data sets do."""

    @Request.application
    def serve(request: Request) -> Response:
        # Without a type werkzeug guesses, and sends a .gz as what is in it, with a Content-Encoding.
        options = {"conditional": True, "mimetype": "application/octet-stream"}
        if "encoded" in request.args:
            del options["mimetype"]
        return send_from_directory(tmp_path, request.path[1:], request.environ, **options)

    listening = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_from_a_web_server(web: str, tmp_path: Path) -> None:
    """The path tells the kind of file, whatever a signed URL holds besides."""
    documents = [ENGLISH, CHINESE] * 100
    write(tmp_path / "a.jsonl.gz", json_lines(documents))
    parquet(tmp_path / "b.parquet", documents)
    for name in ("a.jsonl.gz", "b.parquet"):
        assert _read(Source(files=(f"{web}/{name}?signature=x*%20[",))) == documents
    listed = write(tmp_path / "list", b"b.parquet\na.jsonl.gz\n")
    found = find_files("s", Source(files=(f"@{listed}",), root=web))
    assert [part.url for part in found] == [f"{web}/b.parquet", f"{web}/a.jsonl.gz"]
    assert all(part.modified for part in found)
    with pytest.raises(UserError, match="does not tell its size, or sends it with a Content-Encoding"):
        find_files("s", Source(files=(f"{web}/a.jsonl.gz?encoded",)))
    with pytest.raises(UserError, match=r"none\.txt: no such file or folder there"):
        find_files("s", Source(files=(f"{web}/none.txt",)))


def test_a_read_that_fails_is_tried_again(s3: Server, tmp_path: Path) -> None:
    _put("s3://bucket/a.jsonl", write(tmp_path / "a.jsonl", json_lines([ENGLISH, CHINESE])))
    source = Source(files=("s3://bucket/a.jsonl",))
    parts = find_files("s", source)
    s3.refuse_next(2, "GET", "a.jsonl", "503 SlowDown")
    assert texts(list(read_documents(parts[0], source, "s"))) == [ENGLISH, CHINESE]
    s3.refuse_next(10_000, "GET", "a.jsonl", "503 SlowDown")
    with pytest.raises(FailedWork, match=r"^s3://bucket/a.jsonl: byte 0: cannot be read: .*SlowDown"):
        list(read_documents(parts[0], source, "s"))
    s3.refuse_next(10_000, "GET", "a.jsonl", "403 AccessDenied")
    with pytest.raises(FailedWork, match="cannot be read"):
        list(read_documents(parts[0], Source(files=("unused",), on_damage="skip"), "s"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://a/b.txt", "Protocol not known: nowhere"),
        ("simplecache::memory://a/b.txt", "chained URLs are not read"),
    ],
)
def test_urls_that_are_not_read(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_files("s", Source(files=(url,)))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(
        UserError, match=r"gs://a/b.txt: Please install gcsfs .*: pip install .* '.\[remote\]'"
    ):
        find_files("s", Source(files=("gs://a/b.txt",)))


def test_a_remote_read_goes_on_where_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte twice, none left out."""
    content = os.urandom(3_000_000)
    fsspec.filesystem("memory").pipe_file("memory://a.bin", content)

    class Flaky(io.BytesIO):
        fails = 0

        def read(self, size: int | None = -1) -> bytes:
            Flaky.fails += 1
            if Flaky.fails % 3:
                raise ConnectionResetError("lost")
            return super().read(size)

    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: Flaky(content))
    with raw_module.open_raw("memory://a.bin") as stream:
        assert stream.read() == content
    assert Flaky.fails > 30
