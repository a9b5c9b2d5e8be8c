"""Checkpoints on the nodes' own disks: a lost node, a damaged copy, another number of nodes cost nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from megatrain.config import Config
from tests.distributed.corpus import Play, curve, events, play_runs, run_config, saved_steps
from tests.distributed.corpus import corpus as corpus  # a fixture
from tests.distributed.ranks import RankFailure, run_ranks

KILLED = r"died with exit code -9|Connection (closed|reset) by peer"
TWO_NODES = ("a", "a", "b", "b")


def play_on_nodes(rank: int, plays: Sequence[Play], nodes: Sequence[str]) -> list[str]:
    os.environ["MEGATRAIN_NODE"] = nodes[rank]
    return play_runs(rank, plays)


def config_of(corpus: Path, folder: Path, *overrides: str, copy: bool = True) -> Config:
    """A near tier every 2 steps, the main one every 5; each node's disk is a folder beside the run."""
    tier = f"{{folder: '{folder}-disk-{{node}}', every: 2, keep: 2, partner_copy: {str(copy).lower()}}}"
    fixed = ("schedule.kind=constant", "checkpoint.every=5", f"checkpoint.tiers=[{tier}]", "parallel.zero=2")
    return run_config(corpus, folder, *fixed, *overrides)


def disk(folder: Path, node: int) -> Path:
    """The run's own folder on a node's disk."""
    (own,) = Path(f"{folder}-disk-{node}").iterdir()
    return own


def near_steps(folder: Path, node: int) -> list[int]:
    return sorted(int(path.parent.name[5:]) for path in disk(folder, node).glob("step-*/MANIFEST.json"))


@pytest.fixture(scope="module")
def killed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed while step 8 was being saved near: with copies, and without. "whole" was never disturbed."""
    base = tmp_path_factory.mktemp("tiers")
    whole = Play(config_of(corpus, base / "whole"))
    assert run_ranks(play_on_nodes, 4, [whole], TWO_NODES) == [["done"]] * 4
    for name, copy in (("copied", True), ("plain", False)):
        # Rank 3 writes near at 2, 4, in the main tier at 5, near at 6 and 8.
        fault = "point=checkpoint.write,rank=3,hit=5,do=kill"
        play = Play(config_of(corpus, base / name, copy=copy), fault=fault)
        with pytest.raises(RankFailure, match=KILLED):
            run_ranks(play_on_nodes, 4, [play], TWO_NODES)
        assert saved_steps(base / name) == [5] and near_steps(base / name, 0) == [4, 6]
    return base


def stage(killed: Path, folder: Path, name: str) -> None:
    """A copy of a killed run, with its nodes' disks."""
    for part in ("", "-disk-0", "-disk-1"):
        shutil.copytree(f"{killed / name}{part}", f"{folder}{part}")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_node(folder: Path) -> None:
    shutil.rmtree(f"{folder}-disk-1")


def damage_one(folder: Path) -> None:
    (part,) = disk(folder, 1).glob("step-00000006/*rank-00002*")
    flip(part)


def damage_both(folder: Path) -> None:
    for node in (0, 1):
        (part,) = disk(folder, node).glob("step-00000006/*rank-00002*")
        flip(part)


# What was killed, what happens to the disks, where the run goes on, and what it says of what it passed over.
CASES: dict[str, tuple[str, Callable[[Path], object] | None, int, str]] = {
    "nothing more": ("copied", None, 6, ""),
    "a node is lost": ("copied", lose_node, 6, ""),
    "one copy is damaged": ("copied", damage_one, 6, ""),
    "both copies are damaged": ("copied", damage_both, 5, "rank-00002.safetensors: no node has it whole"),
    "no copies": ("plain", None, 6, ""),
    "no copies, a node is lost": ("plain", lose_node, 5, "no node has it whole"),
}


def test_the_newest_of_all_tiers_is_taken(corpus: Path, killed: Path, tmp_path: Path) -> None:
    """Whatever is lost that has a copy, the run goes on from step 6; and equals the undisturbed one."""
    plays = []
    for name, (source, damage, _, _) in CASES.items():
        folder = tmp_path / name.replace(" ", "-").replace(",", "")
        stage(killed, folder, source)
        if damage is not None:
            damage(folder)
        plays.append(Play(config_of(corpus, folder, copy=source == "copied")))
    assert run_ranks(play_on_nodes, 4, plays, TWO_NODES) == [["done"] * len(CASES)] * 4
    for play, (name, (_, _, step, said)) in zip(plays, CASES.items(), strict=True):
        folder = Path(play.config.run.folder)
        assert [event["step"] for event in events(folder, "resume")] == [step], name
        assert curve(folder) == curve(killed / "whole"), name
        faults = [event["cause"] for event in events(folder, "fault")]
        assert len(faults) == bool(said) and all(said in fault and "(near 1)" in fault for fault in faults)
        # Retention on each node, and nothing half-written stays.
        assert near_steps(folder, 0) == near_steps(folder, 1) == [6, 8] and saved_steps(folder) == [5, 10]
        for node in (0, 1):
            found = {path.name for path in disk(folder, node).glob("step-00000008/*")}
            ranks = range(4) if play.config.checkpoint.tiers[0].partner_copy else TWO_RANKS[node]
            attempt = 2
            wanted = {f"attempt-{attempt:05d}-rank-{rank:05d}.safetensors" for rank in ranks}
            assert found == {"MANIFEST.json", *wanted}, name


TWO_RANKS = ((0, 1), (2, 3))


def test_another_number_of_nodes(corpus: Path, killed: Path, tmp_path: Path) -> None:
    """Three nodes of one rank, one of them new, go on with what two nodes of two left behind."""
    folder = tmp_path / "run"
    stage(killed, folder, "copied")
    (own,) = Path(f"{folder}-disk-1").iterdir()
    Path(f"{folder}-disk-2", own.name).mkdir(parents=True)
    play = Play(config_of(corpus, folder))
    assert run_ranks(play_on_nodes, 3, [play], ("a", "b", "c")) == [["done"]] * 3
    assert [event["step"] for event in events(folder, "resume")] == [6]
    for step, told in curve(folder).items():
        assert told[3:] == curve(killed / "whole")[step][3:]
        assert told[0] == pytest.approx(curve(killed / "whole")[step][0], rel=2e-6)


def test_a_run_begun_anew_is_another_run(corpus: Path, killed: Path, tmp_path: Path) -> None:
    """The run's folder is deleted, the nodes' disks are not: nothing of the old run is taken up.

    Beside it: nodes with unequal numbers of ranks cannot keep copies.
    """
    folder = tmp_path / "run"
    stage(killed, folder, "copied")
    shutil.rmtree(folder)
    plays = [Play(config_of(corpus, folder)), Play(config_of(corpus, tmp_path / "plain", copy=False))]
    uneven = Play(config_of(corpus, tmp_path / "uneven"))
    ends = run_ranks(play_on_nodes, 3, [*plays, uneven], ("a", "a", "b"))
    assert ends[0][1] == "done" and all(end == ends[0] for end in ends)
    assert "partner_copy needs as many ranks on each node, here [1, 2]" in ends[0][0]
    assert ends[0][0].startswith("UserError: ") and ends[0][2].startswith("UserError: ")
    assert events(tmp_path / "plain", "resume") == []
    begun = Play(config_of(corpus, folder))
    assert run_ranks(play_on_nodes, 2, [begun], ("a", "b")) == [["done"]] * 2
    assert events(folder, "resume") == [] and len(events(folder, "start")) == 1
    assert len(list(Path(f"{folder}-disk-0").iterdir())) == 2
