"""What holds for every test: one thread, no network, no accounts, no file outside its folder."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Set before any test module imports torch, DeepSpeed, transformers or wandb; every subprocess inherits them.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "lo",
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "Agg",
    "PYTHONHASHSEED": "0",
    "NO_COLOR": "1",
}
# What a launcher or a batch job around the tests would have set; a test that wants one sets it.
STRANGERS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def pytest_configure(config: pytest.Config) -> None:
    os.environ.update(SETTINGS)
    for name in list(os.environ):
        if name in STRANGERS or name.startswith(("SLURM_", "MEGATRAIN_", "WANDB_API")):
            del os.environ[name]
    # A busy machine is no failure, and the same commit finds the same examples.
    hypothesis.settings.register_profile("megatrain", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("megatrain")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the fork server do its imports while the first tests run."""
    if (
        any("distributed" in item.path.parts for item in session.items)
        and not session.config.option.collectonly
    ):
        from tests.distributed.ranks import warm_up

        warm_up()


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and settings of the person who runs the tests are neither read nor written."""
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    for name, folder in {"HOME": "", "XDG_CACHE_HOME": ".cache", "HF_HOME": ".hf", "WANDB_DIR": ""}.items():
        monkeypatch.setenv(name, str(home / folder))


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """A result must not depend on the number of cores; tests that measure set their own."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine answers: a test that reaches out fails at once, and says so."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(str(address[0])):
            raise RuntimeError(f"a test tried to reach {address[0]}: tests use this machine alone")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _is_local(host: str) -> bool:
    return (
        host in ("localhost", "::1", "0.0.0.0", "") or host.startswith("127.") or host == socket.gethostname()
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
