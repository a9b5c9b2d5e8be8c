"""What failed behind a URL is named for what it is, by the trainer and by the data tools."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from data_tools.readers import raw
from megatrain import remote
from megatrain.remote import RemoteFolder


class Answers(BaseHTTPRequestHandler):
    """The path is the status."""

    def do_GET(self) -> None:
        self.send_error(int(self.path.rpartition("/")[2]))

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(raw, "FIRST_WAIT_S", 0.0)
    httpd = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/data"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def info(url: str) -> Callable[[], object]:
    fs, path = raw.file_system(url)
    return lambda: raw.persist(lambda: fs.info(path))


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [("404", FileNotFoundError, "No such object"), ("403", PermissionError, "403"), ("500", OSError, "500")],
)
def test_only_an_absent_file_is_absent(server: str, name: str, kind: type[OSError], text: str) -> None:
    folder = RemoteFolder(server)
    for work in (lambda: folder.size(name), lambda: folder.read(name), info(f"{server}/{name}")):
        with pytest.raises(OSError) as caught:
            work()
        assert isinstance(caught.value, FileNotFoundError) == (kind is FileNotFoundError), caught.value
    with pytest.raises(kind, match=text):
        folder.size(name)


def test_a_refused_connection_is_no_absent_file(server: str) -> None:
    closed = HTTPServer(("127.0.0.1", 0), Answers)
    url = f"http://127.0.0.1:{closed.server_port}/data"
    closed.server_close()
    for work in (
        lambda: RemoteFolder(url).size("a"),
        lambda: RemoteFolder(url).exists("a"),
        info(f"{url}/a"),
    ):
        with pytest.raises(OSError, match="cannot connect: ") as caught:
            work()
        assert not isinstance(caught.value, FileNotFoundError)
