"""One real SLURM cluster for all tests that want one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.bed.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes. A laptop may lack what it needs; continuous integration may not."""
    reason = why_not()
    if reason is not None:
        end = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        end(f"no SLURM cluster on this machine: {reason}")
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
