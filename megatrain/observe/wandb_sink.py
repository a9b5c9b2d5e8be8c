"""Weights & Biases as a sink that training never waits for: all of wandb runs in a thread of its own."""

from __future__ import annotations

import importlib
import netrc
import os
import queue
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from megatrain.config import Config
from megatrain.observe.metrics import Record, as_json
from megatrain.observe.sinks import Results
from megatrain.state import RunFolder

Mode = Literal["offline", "online"]

QUEUED_RECORDS = 4096
INIT_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 20.0
# Hosts that `wandb login` writes into a netrc file, of older and newer clients.
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")


def wandb_mode(
    setting: Literal["off", "offline", "online", "auto"], environment: Mapping[str, str]
) -> Mode | Literal["off"]:
    """What `observe.wandb` means here: `auto` obeys WANDB_MODE, else it is online where there is a key."""
    if setting != "auto":
        return setting
    match environment.get("WANDB_MODE", ""):
        case "disabled":
            return "off"
        case "offline" | "dryrun":
            return "offline"
    return "online" if has_credentials(environment) else "offline"


def has_credentials(environment: Mapping[str, str]) -> bool:
    """An API key is in WANDB_API_KEY, or `wandb login` has left one in the netrc file."""
    if environment.get("WANDB_API_KEY", "").strip():
        return True
    home = Path(environment.get("HOME", "~")).expanduser()
    path = Path(environment["NETRC"]) if environment.get("NETRC") else home / ".netrc"
    hosts = {*HOSTS, urlsplit(environment.get("WANDB_BASE_URL", "")).hostname}
    try:
        return not hosts.isdisjoint(netrc.netrc(str(path)).hosts)
    except (OSError, netrc.NetrcParseError):
        return False


class WandbSink:
    """Hands records to a thread through a bounded queue; a record that finds it full is dropped.

    Where the service cannot be reached at the start the thread goes on offline (RUN/wandb, for `wandb sync`).
    The first failure is told once by `complaint`, without secrets; after a failure offline it is silent.
    """

    def __init__(self, folder: RunFolder, config: Config, mode: Mode) -> None:
        self._folder = folder
        self._config = config
        self._mode = mode
        self._records: queue.Queue[dict[str, Any] | None] = queue.Queue(QUEUED_RECORDS)
        self._lock = threading.Lock()
        self._complaint: str | None = None
        self._complained = False
        # A daemon: a service that does not answer must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def write_step(self, record: Record) -> None:
        hidden = ("time", "step")
        self._put({"step": record["step"], **{f"train/{k}": v for k, v in record.items() if k not in hidden}})

    def write_event(self, record: Record) -> None:
        self._put({"step": record["step"], f"events/{record['event']}": 1})

    def write_evaluation(self, record: Record, results: Results) -> None:
        numbers = {f"validation/{name}/{key}": v for name, row in results.items() for key, v in row.items()}
        known = {key: value for key, value in numbers.items() if value is not None}
        self._put({"step": record["step"], **known})

    def complaint(self) -> str | None:
        with self._lock:
            complaint, self._complaint = self._complaint, None
        return complaint

    def close(self) -> None:
        """Wait for the upload, but not for ever; what is left lies in RUN/wandb."""
        if not self._thread.is_alive():
            return
        try:
            self._records.put(None, timeout=1.0)
        except queue.Full:
            self._complain("wandb: too slow, its last records are dropped")
            return
        self._thread.join(max(INIT_TIMEOUT_S, FINISH_TIMEOUT_S) + 5.0)

    def _put(self, values: dict[str, Any]) -> None:
        if not self._thread.is_alive():
            return
        try:
            self._records.put_nowait(as_json(values))
        except queue.Full:
            self._complain("wandb: too slow, records are dropped")

    def _complain(self, text: str) -> None:
        with self._lock:
            if not self._complained:
                self._complained = True
                self._complaint = without_secrets(text, os.environ)

    def _work(self) -> None:
        # wandb raises many kinds of errors, and none of them may reach training: this is the wall.
        try:
            run = self._start()
            while (values := self._records.get()) is not None:
                run.log(values)
            run.finish()
        except Exception as error:
            self._complain(f"wandb: {_one_line(error)}; nothing more is sent to it")

    def _start(self) -> Any:
        """Online if asked for and possible, else offline."""
        wandb = importlib.import_module("wandb")  # Takes a second or two.
        identity = run_id(self._folder)
        if self._mode == "online":
            try:
                # Without a key wandb would ask for one at the terminal.
                if not has_credentials(os.environ):
                    raise LookupError("no API key: set WANDB_API_KEY or call `wandb login`")
                return self._init(wandb, identity, "online")
            except Exception as error:
                self._complain(f"wandb: {_one_line(error)}; going on offline, upload later by `wandb sync`")
        return self._init(wandb, identity, "offline")

    def _init(self, wandb: Any, identity: str, mode: Mode) -> Any:
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,  # A remote's URL may carry a token.
            disable_code=True,
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
        )
        run = wandb.init(
            project=self._config.observe.wandb_project,
            name=self._config.run.name,
            id=identity,
            resume="allow"
            if mode == "online"
            else None,  # Offline files of one id are joined by `wandb sync`.
            dir=str(self._folder.root.resolve()),
            mode=mode,
            config=self._config.model_dump(mode="json"),
            settings=settings,
        )
        # The step is a column: wandb's own counter refuses steps that are computed again after a rollback.
        run.define_metric("*", step_metric="step")
        return run


def run_id(folder: RunFolder) -> str:
    """The run's id at wandb, made once and kept in RUN/wandb/run-id: a resumed run continues it."""
    path = folder.root / "wandb" / "run-id"
    if path.exists() and (text := path.read_text(encoding="ascii").strip()):
        return text
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = secrets.token_hex(4)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(identity + "\n", encoding="ascii")
    os.replace(temporary, path)
    return identity


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text with the API key taken out, should an error quote it."""
    key = environment.get("WANDB_API_KEY", "").strip()
    return text.replace(key, "***") if key else text


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
