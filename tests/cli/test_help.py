"""Every command explains itself; a wrong call is one line and exit code 2."""

from __future__ import annotations

import argparse
import errno
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import megatrain
from megatrain.cli import commands
from megatrain.cli.main import _parse, _parser
from tests.cli.conftest import Call

REPOSITORY = Path(__file__).resolve().parents[2]


def all_commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands and sub-commands, as the parser knows them."""
    yield path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from all_commands(inner, (*path, name))


COMMANDS = list(all_commands(_parser()))


def test_the_commands_are_those_promised() -> None:
    promised = ["prepare", "train", "check", "submit", "verify-resume", "evaluate", "export", "generate"]
    assert {path[0] for path in COMMANDS if path} >= {*promised, "report", "data", "checkpoint"}
    of_data = {"inspect", "verify", "diff", "stats", "import", "export"}
    assert {("data", name) for name in of_data} <= {*COMMANDS}
    assert {("checkpoint", "ls"), ("checkpoint", "verify")} <= {*COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_parses(path: tuple[str, ...], call: Call) -> None:
    ended = call(*path, "--help")
    assert (ended.code, ended.err) == (0, "")
    example = ended.out.split("example: megatrain ")[1].strip().splitlines()[0]
    assert example.split()[: len(path)] == list(path)
    words = shlex.split(example)
    assert callable(_parser().parse_args(words).run)
    for word in words:
        if word.startswith("configs/"):
            assert (REPOSITORY / word).is_file()


def test_the_folder_above_a_clone_does_not_hide_the_package(tmp_path: Path) -> None:
    """Python takes a folder `megatrain` for a package, where the real one is installed by an import hook."""
    (tmp_path / "megatrain").mkdir()
    words = [sys.executable, "-m", "megatrain", "--version"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.stdout.strip(), ended.returncode) == (megatrain.__version__, 0), ended.stderr


def test_version(call: Call) -> None:
    assert call("--version").out.strip() == megatrain.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "required: CONFIG"),
        (["data"], "required: COMMAND"),
        (["data", "inspect"], "required: DATASET"),
        (["data", "inspect", "x", "--documents", "-1"], "-1"),
        (["data", "inspect", "x", "--sample", "1", "--window", "a/b:1"], "not allowed with"),
        (["data", "export", "x", "--format", "webdataset"], "invalid choice: 'webdataset'"),
        (["check", "x.yaml", "--ranks", "two"], "--ranks: 'two' is not a whole number"),
        (["check", "x.yaml", "--ranks", "0"], "'0' is not a whole number of at least 1"),
        (["check", "x.yaml", "--rank=2", "--bogus"], "--bogus"),
        (["generate", "run"], "required: --prompt"),
        (["report", "a", "b"], "unrecognized arguments: b"),
        (["evaluate", "run", "--windows", "0"], "'0' is not a whole number of at least 1"),
        (["export", "run", "--dtype", "fp8"], "invalid choice: 'fp8'"),
    ],
)
def test_a_wrong_call_is_one_line(words: list[str], message: str, call: Call) -> None:
    ended = call(*words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert message in ended.err and "--help" in ended.err


def test_overrides_may_stand_after_an_option() -> None:
    parsed = _parse(["check", "x.yaml", "train.steps=2", "--ranks", "2", "run.seed=3"])
    assert (parsed.overrides, parsed.ranks) == (["train.steps=2", "run.seed=3"], 2)


def test_a_disk_that_fails_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: argparse.Namespace) -> int:
        raise OSError(errno.EIO, "Input/output error", "some/file")

    monkeypatch.setattr(commands, "report", fail)
    assert call("report", "run").err == "megatrain: some/file: Input/output error\n"
