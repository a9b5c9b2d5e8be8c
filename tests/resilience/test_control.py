"""What a launch's files say counts only where it is whole: a wrong process must not be killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from megatrain.errors import FailedWork
from megatrain.records import read_sealed, write_sealed
from megatrain.resilience.control import Control, Failure, read_bad_hosts
from megatrain.resilience.process import this_process
from megatrain.state import RunFolder


def test_damaged_files_name_nobody(tmp_path: Path) -> None:
    control = Control(tmp_path / "launch")
    control.open()
    control.enter(3)
    control.finish(7)
    control.hold("key")
    control.fail(Failure(3, "here", "crash", "boom", 1.0))
    assert [(rank, process) for rank, process in control.living()] == [(3, this_process())]
    assert (control.exit_code(), control.lease_key(), control.supervisor_gone()) == (7, "key", False)
    assert [one.text for one in control.failures()] == ["boom"]
    for name in ("rank-00003", "exit", "lease", "supervisor", "failure-00003"):
        path = control.folder / name
        tree = read_sealed(path)
        text = path.read_text()
        path.write_text(text.replace("1", "3").replace("7", "6"))
        if path.read_text() == text:
            path.write_text(json.dumps({**tree, "text": "bang", "key": "yek"}))
    for name, tree in (
        ("rank-00004", {"pid": -1, "started": "1", "world": "w"}),
        ("rank-00005", {"pid": "1", "started": "1", "world": "w"}),
        ("failure-00004", {"rank": "4"}),
    ):
        write_sealed(control.folder / name, tree)
    (control.folder / "rank-²").write_text("{}")
    os.mkfifo(control.folder / "rank-00006")
    (control.folder / "failure-00006").mkdir()
    assert list(control.living()) == [] and control.failures() == []
    assert (control.exit_code(), control.lease_key(), control.supervisor_gone()) == (None, None, False)


def test_bad_hosts_in_any_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_bad_hosts(folder) == []
    folder.bad_hosts.write_bytes(b"node1\n\xff\nnode2")
    assert read_bad_hosts(folder) == ["node1", "\ufffd", "node2"]
    folder.bad_hosts.unlink()
    folder.bad_hosts.mkdir()
    with pytest.raises(FailedWork, match=r"bad-hosts\.txt: cannot be read: Is a directory"):
        read_bad_hosts(folder)
