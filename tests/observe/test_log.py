"""The run's log: its records, its files, what it survives."""

import errno
import json
import logging
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from io import StringIO
from pathlib import Path

import pytest

from megatrain.config import parse_config
from megatrain.observe import Hardware, RunLog, open_log, open_rank_log, read_evaluations, read_metrics
from megatrain.observe.ranklog import close_rank_log
from megatrain.observe.sinks import JsonLines, LineFile, Terminal, duration, step_line
from megatrain.state import Event, RunFolder, RunState, StepResult, Verdict

HARDWARE = Hardware(flops_per_token=6e8, peak_flops_total=1e12)
FIELDS = [  # DESIGN: the fields of metrics.jsonl, in this order
    *(
        "step",
        "consumed_samples",
        "consumed_tokens",
        "loss",
        "grad_norm",
        "lr",
        "step_s",
        "tokens_per_s",
        "mfu",
    ),
    *("data_wait_s", "comm_wait_s", "comm_wait_most_s", "ckpt_stall_s", "mem_gib"),
    *("skipped", "slow", "attempt", "time", "goodput"),
]


def state(step: int, attempt: int = 1) -> RunState:
    return RunState(
        seed=1,
        data_fingerprint="f",
        step=step,
        consumed_samples=8 * step,
        consumed_tokens=1000 * step,
        attempt=attempt,
    )


def result(loss: float = 2.0, *, skipped: bool = False) -> StepResult:
    return StepResult(
        loss=loss,
        grad_norm=0.5,
        learning_rate=3e-4,
        samples=8,
        valid_tokens=1000,
        verdict=Verdict.NOT_FINITE if skipped else Verdict.FINE,
        step_s=2.0,
        data_wait_s=0.25,
        stop=None,
        save=False,
        saving=False,
    )


def log_to(folder: RunFolder) -> RunLog:
    return RunLog(
        [JsonLines(folder.metrics, folder.events)],
        hardware=HARDWARE,
        sequence_length=128,
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_step_is_one_line_with_the_promised_fields(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    log = log_to(folder)
    log.step(state(3, attempt=2), result(), ckpt_stall_s=0.125)
    log.close()
    [record] = lines(folder.metrics)
    assert list(record) == FIELDS
    assert record["step"] == 3 and record["consumed_samples"] == 24 and record["consumed_tokens"] == 3000
    assert record["tokens_per_s"] == 8 * 128 / 2.0  # positions, not valid tokens
    assert record["mfu"] == pytest.approx(512 * 6e8 / 1e12)
    assert record["ckpt_stall_s"] == 0.125 and record["data_wait_s"] == 0.25
    assert record["attempt"] == 2 and record["skipped"] is False
    assert 0.01 < float(str(record["mem_gib"])) < 100
    assert record["comm_wait_s"] is record["comm_wait_most_s"] is record["slow"] is None, "no figure is no 0"
    assert abs(float(str(record["time"])) - time.time()) < 60


def test_what_ranks_wait_for_each_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = log_to(folder)
    log.step(state(1), replace(result(), comm_wait_s=(0.5, 0.125, 0.25)), 0.0, "rank 1 on far")
    log.close()
    [record] = lines(folder.metrics)
    assert (record["comm_wait_s"], record["comm_wait_most_s"]) == (0.125, 0.5)
    assert record["slow"] == "rank 1 on far"


def test_what_json_has_no_word_for_is_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = log_to(folder)
    log.step(state(1), result(math.nan, skipped=True))
    log.event(Event.SKIP, 1, "loss is nan", value=math.inf, at=tmp_path, ranks=[1, (2.0, -math.inf)])
    log.close()
    assert lines(folder.metrics)[0]["loss"] is None
    [event] = lines(folder.events)
    assert event["value"] is None and event["at"] == str(tmp_path) and event["ranks"] == [1, [2.0, None]]


def test_an_event_says_when_in_both_clocks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = log_to(folder)
    log.event(Event.SAVE, 7, "every 7 steps", path="checkpoints/step-00000007")
    log.close()
    [event] = lines(folder.events)
    assert [event[key] for key in ("event", "step", "cause")] == ["save", 7, "every 7 steps"]
    moment = datetime.fromisoformat(str(event["time"]))
    assert moment.utcoffset() is not None and str(event["time"]).endswith("Z")
    assert abs(moment.timestamp() - float(str(event["unix"]))) < 0.002


def test_what_a_run_failed_of_is_told_at_its_last_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = log_to(folder)
    log.step(state(7), result())
    log.failure("the reason")
    log.close()
    [event] = lines(folder.events)
    assert [event[key] for key in ("event", "step", "cause")] == ["fail", 7, "the reason"]


def test_a_line_that_a_kill_has_torn_spoils_no_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = log_to(folder)
    for step in (1, 2, 3):
        log.step(state(step), result())
    log.close()
    whole = folder.metrics.read_bytes()
    folder.metrics.write_bytes(whole[:-20])
    log = log_to(folder)
    log.step(state(3, attempt=2), result(1.5))
    log.close()
    assert folder.metrics.read_bytes().startswith(whole[:-20] + b"\n{")
    assert [record["step"] for record in read_metrics(folder)] == [1, 2, 3]
    assert read_metrics(folder)[-1]["attempt"] == 2


def test_a_kill_tears_the_last_line_at_most(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from megatrain.observe.sinks import LineFile\n"
        "file = LineFile(Path(sys.argv[1]))\n"
        "number = 0\n"
        "while True: file.append({'number': number, 'text': 'x' * 3000}); number += 1\n"
    )
    path = tmp_path / "lines.jsonl"
    with subprocess.Popen([sys.executable, "-c", program, str(path)]) as writer:
        while not path.exists() or path.stat().st_size < 100_000:
            assert writer.poll() is None
            time.sleep(0.005)
        writer.kill()
    torn = not path.read_bytes().endswith(b"\n")  # The kernel may stop a write between two pages.
    file = LineFile(path)
    file.append({"number": -1})
    file.close()
    *before, last = path.read_bytes().splitlines()
    whole = before[:-1] if torn else before
    assert [json.loads(line)["number"] for line in whole] == list(range(len(whole)))
    assert json.loads(last) == {"number": -1}


def test_a_full_disk_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    log = log_to(folder)
    log.step(state(1), result())

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.step(state(2), result())
    log.step(state(3), result())
    monkeypatch.undo()
    log.step(state(4), result())
    log.close()
    assert [record["step"] for record in read_metrics(folder)] == [1, 2, 3, 4]
    assert len([record for record in caplog.records if "cannot write now" in record.message]) == 1


def test_the_same_step_twice_counts_once_and_a_rollback_undoes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = log_to(folder)
    for step in range(1, 8):
        log.step(state(step), result(float(step)))
    log.evaluation(state(5), {"all": {"loss": 5.0}})
    for step in (4, 5):
        log.step(state(step, attempt=2), result(-float(step)))
    log.evaluation(state(5, attempt=2), {"all": {"loss": 4.0}})
    log.close()
    assert [record["loss"] for record in read_metrics(folder)] == [1.0, 2.0, 3.0, -4.0, -5.0]
    [evaluation] = read_evaluations(folder)
    assert evaluation["results"] == {"all": {"loss": 4.0}} and evaluation["attempt"] == 2
    assert len(lines(folder.metrics)) == 9, "nothing is taken out of the file"


def test_only_rank_0_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_config("observe: {wandb: 'off'}")
    for rank in (1, 0):
        folder = RunFolder(tmp_path / str(rank))
        log = open_log(config, folder, rank, HARDWARE)
        log.event(Event.START, 0, "new")
        log.step(state(1), result())
        log.evaluation(state(1), {"all": {"loss": 1.0}})
        log.close()
        log.step(state(2), result())  # after the end: nothing, no error
        assert folder.metrics.exists() == (rank == 0)
        assert bool(capsys.readouterr().out) == (rank == 0)
    assert len(read_metrics(RunFolder(tmp_path / "0"))) == 1


def test_terminal_prints_what_was_asked_and_never_hides_a_skip() -> None:
    stream = StringIO()
    log = RunLog(
        [Terminal(stream, total_steps=25, print_every=10)],
        hardware=HARDWARE,
        sequence_length=128,
    )
    for step in range(1, 26):
        log.step(state(step), result(math.nan if step == 13 else 2.0, skipped=step == 13))
    log.event(Event.FAULT, 25, "a cause", rank=3)
    log.evaluation(state(25), {"all": {"loss": 1.25, "tokens": 12345}})
    text = stream.getvalue()
    printed = [line for line in text.splitlines() if line.startswith("step")]
    assert [int(line.split("/")[0].removeprefix("step")) for line in printed] == [10, 13, 20, 25]
    assert "SKIPPED" in printed[1] and "ppl        -" in printed[1]
    assert len({line.index("| eta") for line in printed}) == 1, "columns are aligned"
    assert "\x1b" not in text and "\r" not in text
    assert "fault at step 25: a cause (rank 3)" in text
    assert "loss 1.2500" in text and "tokens 12,345" in text


def test_terminal_writes_to_a_stream_that_knows_only_ascii(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        terminal = Terminal(stream, total_steps=1, print_every=1)
        terminal.write_evaluation({"step": 1}, {"詩": {"loss": 1.0}})
    assert "loss 1.0000" in (tmp_path / "out").read_text()


def test_step_line_and_durations() -> None:
    record = dict.fromkeys(FIELDS, 0) | {
        "step": 120,
        "loss": 3.5,
        "lr": 3e-4,
        "mfu": 0.412,
        "tokens_per_s": 12_345.0,
        "data_wait_s": 0.1,
        "ckpt_stall_s": 0.3,
    }
    line = step_line(record, 5000, 200.0)
    for part in (
        "step  120/5000",
        "loss  3.5000",
        "ppl    33.12",
        "12.3k tok/s",
        "41.2%",
        "3m20s",
        "save 0.30s",
    ):
        assert part in line
    assert [duration(s) for s in (0, 59.4, 61, 3661, 90000)] == ["0s", "59s", "1m01s", "1h01m", "1d01h"]


def test_each_rank_has_its_own_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    logger = logging.getLogger("megatrain.somewhere")
    try:
        open_rank_log(folder, 3)
        logger.info("quiet")
        logger.warning("loud")
        open_rank_log(folder, 4)
        logger.info("after")
    finally:
        close_rank_log()
    logger.info("gone")
    three, four = folder.log(3).read_text(), folder.log(4).read_text()
    assert "rank 3 INFO megatrain.somewhere: quiet" in three and "loud" in three and "after" not in three
    assert "rank 4 INFO megatrain.somewhere: after" in four and "gone" not in four
    errors = capsys.readouterr().err
    assert "[rank 3] WARNING megatrain.somewhere: loud" in errors and "quiet" not in errors


def test_a_line_file_refuses_what_is_not_json(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "new" / "x.jsonl")
    file.append({"a": math.nan, "b": {"c": [Event.SAVE]}, 3: "中"})  # type: ignore[dict-item]
    file.close()
    assert lines(tmp_path / "new" / "x.jsonl") == [{"a": None, "b": {"c": ["Event.SAVE"]}, "3": "中"}]
