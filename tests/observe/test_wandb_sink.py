"""wandb never holds training up, never raises into it, never tells a secret."""

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatrain.config import parse_config
from megatrain.observe import Hardware, RunLog, wandb_sink
from megatrain.observe.sinks import JsonLines
from megatrain.observe.wandb_sink import WandbSink, has_credentials, run_id, wandb_mode, without_secrets
from megatrain.state import Event, RunFolder
from tests.observe.test_log import lines, result, state

CONFIG = parse_config("run: {name: a-run}\nobserve: {wandb_project: a-project}")
KEY = "0123456789" * 4


class FakeWandb:
    """The few functions of wandb that the sink calls; what fails is set by the test."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.finished = False
        self.refuses: tuple[str, ...] = ()
        self.fails_at_log = False
        self.answers = threading.Event()
        self.answers.set()
        self.Settings = SimpleNamespace

    def init(self, **arguments: Any) -> "FakeWandb":
        self.inits.append(arguments)
        self.answers.wait(30)
        if arguments["mode"] in self.refuses:
            raise ConnectionError(f"no\nnetwork for {KEY}")
        return self

    def define_metric(self, *_: str, **__: str) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        if self.fails_at_log:
            raise RuntimeError("service died")
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return fake


def complaint_of(sink: WandbSink) -> str:
    """Waits for it."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if complaint := sink.complaint():
            return complaint
        time.sleep(0.01)
    raise AssertionError("no complaint")


def test_mode(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert wandb_mode("off", {"WANDB_API_KEY": "x"}) == "off"
    assert wandb_mode("offline", {"WANDB_API_KEY": "x"}) == "offline"
    assert wandb_mode("online", home) == "online"
    assert wandb_mode("auto", home) == "offline"
    assert wandb_mode("auto", {**home, "WANDB_API_KEY": " "}) == "offline"
    assert wandb_mode("auto", {**home, "WANDB_API_KEY": "x"}) == "online"
    assert wandb_mode("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}) == "off"
    assert wandb_mode("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}) == "offline"


def test_credentials_in_a_netrc_file(tmp_path: Path) -> None:
    path = tmp_path / ".netrc"
    home = {"HOME": str(tmp_path)}
    path.write_text("machine example.org login user password x\n")
    assert not has_credentials(home)
    assert has_credentials({**home, "WANDB_BASE_URL": "https://example.org/api"})
    path.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert has_credentials(home) and has_credentials({"HOME": "/nowhere", "NETRC": str(path)})
    path.write_text("nonsense {")
    assert not has_credentials(home)


def test_a_run_keeps_its_id(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = run_id(folder)
    assert first == run_id(folder) != run_id(RunFolder(tmp_path / "other"))
    assert first.isalnum()


def test_records_arrive_in_order_and_the_run_is_finished(tmp_path: Path, fake: FakeWandb) -> None:
    folder = RunFolder(tmp_path)
    sink = WandbSink(folder, CONFIG, "online")
    sink.write_event({"event": "start", "step": 0})
    for step in range(1, 50):
        sink.write_step({"step": step, "loss": 1.0 / step, "time": 0.0})
    sink.write_evaluation({"step": 49}, {"all": {"loss": 2.0}})
    sink.close()
    assert sink.complaint() is None and fake.finished
    assert [values["step"] for values in fake.logged] == [0, *range(1, 50), 49]
    assert fake.logged[1] == {"step": 1, "train/loss": 1.0}
    assert fake.logged[-1] == {"step": 49, "validation/all/loss": 2.0}
    [init] = fake.inits
    assert (init["mode"], init["id"], init["resume"]) == ("online", run_id(folder), "allow")
    assert (init["project"], init["name"]) == ("a-project", "a-run")
    assert KEY not in str(init)


def test_without_network_it_goes_on_offline_and_says_so_once(tmp_path: Path, fake: FakeWandb) -> None:
    fake.refuses = ("online",)
    folder = RunFolder(tmp_path)
    sink = WandbSink(folder, CONFIG, "online")
    log = RunLog(
        [JsonLines(folder.metrics, folder.events), sink], hardware=Hardware(1.0, 1.0), sequence_length=8
    )
    for step in range(1, 40):
        log.step(state(step), result())
        time.sleep(0.005)
    log.close()
    assert [init["mode"] for init in fake.inits] == ["online", "offline"]
    assert len([values for values in fake.logged if "train/loss" in values]) == 39
    [event] = lines(folder.events)
    assert event["event"] == Event.FAULT.value
    assert "ConnectionError: no network" in str(event["cause"]) and "offline" in str(event["cause"])
    assert KEY not in folder.events.read_text()


def test_online_without_a_key_asks_nobody(
    tmp_path: Path, fake: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    sink = WandbSink(RunFolder(tmp_path), CONFIG, "online")
    assert "no API key" in complaint_of(sink)
    sink.close()
    assert [init["mode"] for init in fake.inits] == ["offline"]


def test_a_service_that_dies_silences_the_sink(tmp_path: Path, fake: FakeWandb) -> None:
    fake.fails_at_log = True
    sink = WandbSink(RunFolder(tmp_path), CONFIG, "offline")
    sink.write_step({"step": 1})
    assert complaint_of(sink) == "wandb: RuntimeError: service died; nothing more is sent to it"
    sink.write_step({"step": 2})
    sink.close()
    assert sink.complaint() is None


def test_a_service_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, fake: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INIT_TIMEOUT_S", "FINISH_TIMEOUT_S"):
        monkeypatch.setattr(wandb_sink, name, -4.9)  # less the 5 s that close adds
    monkeypatch.setattr(wandb_sink, "QUEUED_RECORDS", 10)
    fake.answers.clear()
    sink = WandbSink(RunFolder(tmp_path), CONFIG, "offline")
    start = time.monotonic()
    for step in range(100):
        sink.write_step({"step": step})
    assert complaint_of(sink) == "wandb: too slow, records are dropped"
    sink.close()
    assert time.monotonic() - start < 5
    fake.answers.set()


def test_secrets_are_taken_out() -> None:
    assert without_secrets(f"bad key {KEY}!", {"WANDB_API_KEY": KEY}) == "bad key ***!"
    assert without_secrets("fine", {}) == "fine"


def test_the_real_wandb_writes_offline_files_into_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    sink = WandbSink(folder, CONFIG, "offline")
    sink.write_step({"step": 1, "loss": 1.0})
    sink.close()
    assert sink.complaint() is None
    [file] = (folder.root / "wandb").glob("offline-run-*/run-*.wandb")
    assert run_id(folder) in file.name and file.stat().st_size > 0
