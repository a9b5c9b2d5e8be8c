"""What a rank says at its end, whatever else the launcher does."""

import threading
from pathlib import Path

import pytest

from megatrain.errors import FailedWork
from megatrain.resilience.control import Control
from megatrain.train import main as program


def test_a_rank_whose_work_failed_lets_rank_0_say_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher kills the others as soon as one has ended."""

    def failing(*_: object) -> int:
        raise FailedWork("shard damaged")

    monkeypatch.setattr(program, "_train", failing)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    control = Control(tmp_path / "launch")
    control.open()
    rank_0 = threading.Timer(0.5, control.finish, [1])
    rank_0.start()
    try:
        # 0: the supervisor knows, and the launcher prints no error after rank 0's line.
        assert program.main(["--config", "c.yaml", "--control", str(control.folder)]) == 0
        assert control.exit_code() == 1
    finally:
        rank_0.join()
    (failure,) = control.failures()
    assert (failure.rank, failure.kind, failure.text) == (1, "failed", "shard damaged")
    (control.folder / "exit").unlink()
    monkeypatch.setattr(program, "WORD_S", 0.1)
    assert program.main(["--config", "c.yaml", "--control", str(control.folder)]) == 1, "but not for ever"
