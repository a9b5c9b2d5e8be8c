"""What the supervisor makes of a launch that ended, of a hostfile, and of control folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from megatrain.cluster import supervisor
from megatrain.cluster.hosts import Host, answering, read_hostfile, usable
from megatrain.cluster.launchers import command_line, environment
from megatrain.cluster.supervisor import End, supervise, what_happened
from megatrain.config import Config, parse_config
from megatrain.errors import UserError
from megatrain.resilience.control import Control, Failure
from megatrain.resilience.process import this_process
from megatrain.state import RunFolder


def failure(rank: int, kind: str, text: str, at: float) -> Failure:
    return Failure(rank, "far", kind, text, at)


def test_the_first_cause_is_told() -> None:
    crash = failure(0, "crash", "RuntimeError: Connection closed by peer", 2.0)
    first = failure(3, "crash", "ValueError: odd", 1.0)
    hang = failure(2, "hang", "no end of step 5", 9.0)
    assert what_happened([], [first, crash], 1) == "rank 3 on far failed: ValueError: odd"
    assert what_happened([1], [crash], 1) == "rank 1 ended without a word (killed, or out of memory?)"
    told = failure(0, "failed", "shard damaged", 3.0)
    assert what_happened([1], [told], 1).endswith("out of memory?); rank 0 failed: shard damaged")
    assert what_happened([1, 2], [crash, hang], 1) == "rank 2 on far: no end of step 5"
    assert what_happened([0], [crash], 1).startswith("rank 0 on far failed"), "it left a word"
    assert what_happened([], [], -9) == "the launcher ended with code -9"


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[End, int]]:
    """What the next launches come to: how they end, and the last step that is recorded."""
    todo: list[tuple[End, int]] = []
    monkeypatch.chdir(tmp_path)

    def launch(config: Config, *args: object, **options: object) -> End:
        end, step = todo.pop(0)
        folder = RunFolder(Path(config.run.folder))
        folder.root.mkdir(parents=True, exist_ok=True)
        with folder.metrics.open("a") as file:
            file.write(f'{{"step": {step}}}\n')
        return end

    monkeypatch.setattr(supervisor, "launch", launch)
    return todo


FAULT = End(None, False, "rank 1 ended")


def told(words: str) -> Config:
    return parse_config("run: {folder: run}", ["resilience.restarts.wait_s=0", *words.split()])


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_an_end_that_ranks_came_to_is_final(ends: list[tuple[End, int]], code: int) -> None:
    ends += [(End(code, False, ""), 3)]
    assert supervise(told(""), Path("config.yaml"), []) == code


def test_faults_are_followed_by_restarts_as_long_as_there_is_progress(
    ends: list[tuple[End, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    ends += [(FAULT, step) for step in (3, 3, 2, 4, 5, 5)] + [(End(0, False, ""), 9)]
    assert supervise(told("resilience.restarts.without_progress=3"), Path("c.yaml"), []) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6 and said[0] == "megatrain: restart at step 3: rank 1 ended; restart 1 in 0 s"


@pytest.mark.parametrize(
    ("words", "steps", "code"),
    [
        ("resilience.restarts.without_progress=2", [3, 3, 3], 76),
        ("resilience.restarts.without_progress=1", [0], 76),
        ("resilience.restarts.most=2", [1, 2, 3], 76),
        ("resilience.restarts.most=0", [1], 1),
    ],
)
def test_it_gives_up(ends: list[tuple[End, int]], words: str, steps: list[int], code: int) -> None:
    ends += [(FAULT, step) for step in steps]
    assert supervise(told(words), Path("c.yaml"), []) == code
    assert ends == []


def test_a_signal_before_ranks_could_save(ends: list[tuple[End, int]]) -> None:
    ends += [(End(None, True, "rank 0 ended"), 0)]
    assert supervise(told(""), Path("c.yaml"), []) == 75


# --- hosts ---


def hosts(path: Path, text: str) -> list[Host]:
    path.write_text(text)
    return read_hostfile(path)


def test_a_hostfile(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    assert hosts(path, "# two\nn1 slots=8\n\n n2.lab   slots=4 # slower\nn3\n") == [
        Host("n1", 8),
        Host("n2.lab", 4),
        Host("n3", 1),
    ]
    for text, message in (
        ("", "names no host"),
        ("n1 slots=0", "line 1: 'n1 slots=0' is not like `host slots=8`"),
        ("n1 slots=8\n-oProxyCommand=x slots=1", "line 2"),
        ("n1 slots=2\nn1 slots=2", "n1 stands there twice"),
    ):
        with pytest.raises(UserError, match=r"cluster\.hostfile") as caught:
            hosts(path, text)
        assert message in str(caught.value)
    with pytest.raises(UserError, match="No such file or directory; write lines like"):
        read_hostfile(tmp_path / "absent")


def test_hosts_that_do_not_answer_are_left_out() -> None:
    """The layout must still be valid: tensor-parallel groups stay whole."""
    all_ = [Host(f"n{number}", 2) for number in range(4)]
    assert answering(all_, lambda host: host.name != "n1") == [all_[0], all_[2], all_[3]]
    config = parse_config("parallel: {tensor: 4}\nmodel: {heads: 4, kv_heads: 4}\ncluster: {hostfile: hosts}")
    assert usable(config, all_) == all_
    assert usable(config, all_[:3]) == all_[:2], "six ranks are no multiple of four"
    with pytest.raises(UserError, match=r"no number of the hosts that answer \(n0\) gives a layout"):
        usable(config, all_[:1])


def test_command_lines(tmp_path: Path) -> None:
    config = parse_config("cluster: {hostfile: hosts, master_addr: 10.0.0.1}")
    line = command_line(
        config, Path("/c.yaml"), ["a=b c"], world=4, control=tmp_path, hosts=[Host("n1", 2), Host("n2", 2)]
    )
    assert line[line.index("--hostfile") + 1] == str(tmp_path / "hosts")
    assert (tmp_path / "hosts").read_text() == "n1 slots=2\nn2 slots=2\n"
    assert line[line.index("--master_addr") + 1] == "10.0.0.1" and line[-1] == "a=b c"
    found = environment(config, 4, {"MEGATRAIN_X": "1", "SECRET_KEY": "no"}, tmp_path, [Host("n1", 2)])
    text = Path(found["DS_ENV_FILE"]).read_text()
    assert "MEGATRAIN_X=1\n" in text and "SECRET" not in text and "WANDB" not in text
    for launcher in ("deepspeed", "torchrun"):
        config = parse_config(f"cluster: {{launcher: {launcher}}}")
        line = command_line(config, Path("/c.yaml"), ["x=1"], world=3, control=tmp_path)
        assert "3" in line and line[-1] == "x=1" and line[line.index("--control") + 1] == str(tmp_path)


# --- the folder where supervisor and ranks meet ---


def test_control(tmp_path: Path) -> None:
    control = Control(tmp_path / "launch")
    assert control.supervisor_gone(), "there is no folder"
    control.open()
    assert not control.supervisor_gone() and control.exit_code() is None
    for rank in (0, 1):
        control.enter(rank)
    control.leave(0)
    assert list(control.living()) == [(1, this_process())]
    control.finish(75)
    assert control.exit_code() == 75
    for rank, at in ((1, 5.0), (0, 3.0)):
        control.fail(failure(rank, "crash", "text", at))
    assert [one.rank for one in control.failures()] == [0, 1]
    (control.folder / "failure-00002").write_text("{torn")
    assert len(control.failures()) == 2
    assert not control.asked("end")
    control.ask("end")
    assert control.asked("end")
    # A supervisor of another machine is judged by the age of its file.
    elsewhere = dataclasses.replace(this_process(), world="another")
    control._write("supervisor", dataclasses.asdict(elsewhere))
    assert not control.supervisor_gone()
    import os

    os.utime(control.folder / "supervisor", (1, 1))
    assert control.supervisor_gone()
    control.renew()
    assert not control.supervisor_gone()
    control.close()
    assert not control.folder.exists() and control.supervisor_gone()
