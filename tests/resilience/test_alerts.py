"""Alerts reach a command and a webhook, hold nothing secret, and a broken one harms nobody."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from megatrain.config import AlertConfig
from megatrain.resilience.alerts import alert, message

RECORD = {"event": "restart", "step": 7, "cause": "rank 1 ended", "time": "now", "unix": 1.0, "more": "x"}


def told(config: AlertConfig) -> None:
    for thread in alert(config, message("big run", RECORD)):
        thread.join(60)
        assert not thread.is_alive()


def test_a_command_gets_the_message(tmp_path: Path) -> None:
    out = tmp_path / "got.json"
    program = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    config = AlertConfig(command=(sys.executable, "-c", program, str(out)))
    told(config)
    wanted = {"run": "big run", "event": "restart", "step": 7, "cause": "rank 1 ended", "time": "now"}
    assert json.loads(out.read_text()) == wanted
    out.unlink()
    told(AlertConfig(command=config.command, events=("give up",)))
    assert not out.exists(), "nobody asked for it"


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[bytes]]]:
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if "good" in self.path else 500)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def test_a_webhook(
    webhook: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, got = webhook
    config = AlertConfig(url_variable="MY_HOOK")
    told(config)
    assert not got, "the variable is not set"
    monkeypatch.setenv("MY_HOOK", f"{url}/good/secret-token")
    told(config)
    assert json.loads(got[0])["cause"] == "rank 1 ended"
    with caplog.at_level(logging.WARNING):
        for broken in (
            f"{url}/bad/secret-token",
            "http://127.0.0.1:1/secret-token",
            "file:///etc/secret-token",
        ):
            monkeypatch.setenv("MY_HOOK", broken)
            told(config)
        told(AlertConfig(command=("/no/such/program", "secret-token")))
        told(AlertConfig(command=("false",)))
    assert len(caplog.records) == 5 and "secret-token" not in caplog.text


def test_it_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    threads = alert(AlertConfig(command=("sleep", "5")), message("r", RECORD))
    assert time.monotonic() - started < 4 and len(threads) == 1
