"""Standard output and error that fail: no command is ended by them without a line, and no run at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatrain.observe.append import Appender
from megatrain.output import Guarded, guarded, noted_output, say
from tests.cluster.launched import REPOSITORY

FULL = Path("/dev/full")
STEP = '{"step": 1, "time": 100.0, "step_s": 1.0, "ckpt_stall_s": 0.0, "skipped": false, "loss": 2.0}\n'


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_what_is_guarded_fails_nobody_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken())
    with guarded(out=True):
        print("a", flush=True)
        print("b", flush=True)
        assert not sys.stdout.isatty()
    with noted_output() as output:
        with guarded(out=True):
            print("lost, and no result", flush=True)
        assert output.error is None
        with pytest.raises(OSError, match="No space"):
            print("lost", flush=True)
        assert output.error is not None
    monkeypatch.setattr(sys, "stdout", None)
    with guarded(out=True):
        print("c")
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert said.count("standard output: No space left on device") == said.count("\n") == 2
    say("d", Broken())
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Guarded(stream, "standard output").write("床前 é\n")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u5e8a\\u524d \\xe9\n"  # type: ignore[attr-defined]


def test_a_command_whose_output_is_lost_ends_with_one_line(tmp_path: Path) -> None:
    """A full disk, a reader that is gone, and a closed standard error, which is nobody's file then."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(STEP)
    (run / "loss.png").mkdir()  # so that no picture can be put there
    command = [sys.executable, "-m", "megatrain", "report", str(run)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with FULL.open("w") as full:
        ended = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr and "ignored" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("megatrain: standard output: No space left on device")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ended.returncode == 1 and "standard output: Broken pipe" in ended.stderr.splitlines()[-1]
    with FULL.open("w") as full:
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=full, text=True)
    assert ended.returncode == 0 and "goodput" in ended.stdout, "the note is lost, the report is not"


def test_a_rank_log_needs_no_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    say("nobody hears it")
    Appender(tmp_path / "x").close()


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}])
def test_whatever_the_locale_names_and_texts_are_utf8_and_print_escaped(
    locale: dict[str, str], tmp_path: Path
) -> None:
    """床 cannot be written in it; nothing is lost and nothing fails."""
    (tmp_path / "床.yaml").write_text("output: 前\nsources: {明: {files: [没有/月.txt]}}\n", encoding="utf-8")
    for program in ("megatrain prepare", "data_tools.prepare"):
        ended = subprocess.run(
            [sys.executable, "-m", *program.split(), "床.yaml"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONCOERCECLOCALE": "0", **locale},
            capture_output=True,
            timeout=120,
        )
        assert ended.returncode == 2 and ended.stderr.isascii(), ended
        assert rb"sources.\u660e.files: \u6ca1\u6709/\u6708.txt: no such file" in ended.stderr, ended.stderr
