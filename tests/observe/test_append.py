"""A line of a run is in its file complete, in order, late rather than never, and by who holds the run."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from megatrain.errors import FailedWork
from megatrain.observe import RunLog, open_rank_log
from megatrain.observe import append as append_module
from megatrain.observe.append import Appender
from megatrain.observe.ranklog import close_rank_log
from megatrain.observe.sinks import JsonLines
from megatrain.state import Event, RunFolder
from tests.observe.test_log import HARDWARE, lines, result, state


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """No file can grow beyond this size, as on a disk with room for the beginning of a line."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_full_disk_delays_is_written_in_order_and_an_event_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    sinks = [JsonLines(folder.metrics, folder.events)]
    log = RunLog(sinks, hardware=HARDWARE, sequence_length=128)
    log.step(state(1), result())
    with no_room_beyond(folder.metrics.stat().st_size + 40):
        for step in (2, 3, 4):
            log.step(state(step), result())
        assert folder.metrics.read_bytes().endswith(b"}\n"), "no line is there in part"
        assert len(lines(folder.metrics)) == 1
    log.step(state(5), result())
    log.event(Event.END, 5, "")
    log.close()
    assert [line["step"] for line in lines(folder.metrics)] == [1, 2, 3, 4, 5]
    told = [line["cause"] for line in lines(folder.events)]
    assert told == ["metrics.jsonl: 4 lines were written late (File too large)", ""]
    assert len([one for one in caplog.records if "cannot write now" in one.message]) == 1


def test_what_is_kept_is_bounded_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_module, "MOST_KEPT", 3)
    file = Appender(tmp_path / "x")
    with no_room_beyond(0):
        for number in range(5):
            with pytest.raises(OSError, match="File too large"):
                file.append(b"%d\n" % number)
    assert file.complaint() is None
    with pytest.raises(OSError, match="File too large"), no_room_beyond(4):
        file.append(b"5\n")
    file.append(b"6\n")
    assert (tmp_path / "x").read_bytes() == b"0\n1\n2\n6\n"
    assert file.complaint() == "x: 2 lines were written late, 3 are lost (File too large)"
    with no_room_beyond(0):
        with pytest.raises(OSError, match="File too large"):
            file.append(b"7\n")
        file.close()
    assert file.complaint() == "x: 1 lines are lost (File too large)" and file.complaint() is None


def test_a_part_that_cannot_be_taken_back_is_no_part_of_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = Appender(tmp_path / "x")
    monkeypatch.setattr(os, "ftruncate", refused)
    with no_room_beyond(2), pytest.raises(OSError, match="File too large"):
        file.append(b"abcd\n")
    file.close()
    assert (tmp_path / "x").read_bytes() == b"ab\nabcd\n"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: object) -> None:
    make(tmp_path / "x")  # type: ignore[operator]
    with pytest.raises(OSError, match="x"):
        Appender(tmp_path / "x")


def test_nothing_is_appended_to_a_run_that_another_attempt_holds(tmp_path: Path) -> None:
    folder, reasons, alerts = RunFolder(tmp_path), list[Exception](), list[object]()

    def fence() -> None:
        if reasons:
            raise reasons[-1]

    sinks = [JsonLines(folder.metrics, folder.events, fence)]
    log = RunLog(sinks, hardware=HARDWARE, sequence_length=8, alert=alerts.append, fence=fence)
    log.step(state(1), result())
    reasons.append(OSError(errno.EIO, "lease.json cannot be read"))
    log.step(state(2), result())
    assert len(lines(folder.metrics)) == 1, "not known whether it may be written"
    reasons.append(FailedWork("lost its lease"))
    for write in (
        lambda: log.step(state(3), result()),
        lambda: log.event(Event.SAVE, 3, ""),
        lambda: log.evaluation(state(3), {"all": {"loss": 1.0}}),
    ):
        with pytest.raises(FailedWork, match="lost its lease"):
            write()
    log.close()
    assert [line["step"] for line in lines(folder.metrics)] == [1]
    assert not folder.events.read_bytes() and not alerts


def test_a_rank_log_on_a_full_disk_is_late_and_says_so_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, logger = RunFolder(tmp_path), logging.getLogger("megatrain.somewhere")
    try:
        open_rank_log(folder, 0)
        with no_room_beyond(10):
            for number in range(3):
                logger.info("number %d", number)
        logger.info("the last")
    finally:
        close_rank_log()
    said = [line.rpartition(" ")[2] for line in folder.log(0).read_text().splitlines()]
    assert said == ["0", "1", "2", "last"]
    errors = capsys.readouterr().err
    assert "Traceback" not in errors and "Logging error" not in errors
    assert errors.count("cannot be written now") == 1 and "4 lines were written late" in errors
    (tmp_path / "logs" / "rank-0001.log").mkdir()
    try:
        open_rank_log(folder, 1)
        logger.info("on stderr alone")
    finally:
        close_rank_log()
    assert "rank-0001.log: cannot be written: Is a directory" in capsys.readouterr().err


def test_json_lines_hold_any_text(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    sink = JsonLines(folder.metrics, folder.events)
    sink.write_event({"cause": "a file named \udcff"})
    sink.close()
    assert json.loads(folder.events.read_text())["cause"].startswith("a file named")
