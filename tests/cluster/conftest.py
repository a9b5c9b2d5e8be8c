"""What the tests of this folder share: one real SLURM cluster, and one undisturbed run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bed.cluster import Cluster, why_not
from tests.cluster.launched import Home, elsewhere, read
from tests.distributed.corpus import corpus as corpus  # a fixture


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes. A laptop may lack what it needs; continuous integration may not."""
    reason = why_not()
    if reason is not None:
        end = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        end(f"no SLURM cluster on this machine: {reason}")
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Home]:
    """Whatever a failed test has left running ends with it."""
    folder = tmp_path_factory.mktemp("launch") / "with a space"
    folder.mkdir()
    home = Home(folder, corpus)
    yield home
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and str(home.config) in read(int(process.name), "cmdline").split("\0"):
            os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="session")
def undisturbed(home: Home) -> Path:
    """The same run from its first to its last step, under the other launcher."""
    started = home.start("undisturbed", "cluster.launcher=torchrun")
    started.until_steps(5)
    assert elsewhere(started.listening()) == set(), "on one host nothing listens but on the loopback"
    assert started.ended() == 0, started.said()
    started.until_gone()
    return started.run
