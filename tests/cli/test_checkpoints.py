"""`megatrain checkpoint ls | verify | diff | prune`: what they say, and what they leave alone."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.conftest import Call, Scene, edit_manifest, flip_byte


@pytest.fixture
def three(scene: Scene) -> Scene:
    """Checkpoints of steps 10, 20 and 30; the newest has a flipped byte, the oldest a broken manifest."""
    folders = [scene.checkpoint(step) for step in (10, 20, 30)]
    edit_manifest(folders[1], loss=2.25, validation_loss=2.5)
    part = folders[2] / "attempt-00001-rank-00001.safetensors"
    flip_byte(part, part.stat().st_size - 5)
    (folders[0] / "MANIFEST.json").write_text("{")
    return scene


def test_ls_and_verify_tell_of_each(three: Scene, call: Call) -> None:
    before = three.files()
    listed = call("checkpoint", "ls", "run")
    assert listed.code == 0
    newest, middle, oldest = listed.out.splitlines()
    assert newest.startswith("step-00000030  2026-") and newest.endswith("  whole"), (
        "sizes alone are compared"
    )
    assert "loss 2.2500  validation 2.5000  saved on tensor 1 data 2 zero 1  whole" in middle
    assert oldest.startswith("step-00000010  ") and "not a sound manifest" in oldest
    verified = call("checkpoint", "verify", "run")
    assert verified.code == 1
    newest, middle, oldest = verified.out.splitlines()
    assert newest.endswith("rank-00001.safetensors: hash differs from the manifest's")
    assert middle == "step-00000020  whole" and "not a sound manifest" in oldest
    assert verified.err == "megatrain: run: 2 damaged; a run falls back to the newest whole one\n"
    assert three.files() == before


def test_one_checkpoint_can_be_named(three: Scene, call: Call) -> None:
    for step, code, told in ((20, 0, "whole"), (30, 1, "hash differs"), (10, 1, "not a sound manifest")):
        where = f"run/checkpoints/step-{step:08d}"
        ended = call("checkpoint", "verify", where)
        assert ended.code == code and ended.out.count("\n") == 1 and told in ended.out
        (line,) = call("checkpoint", "ls", where).out.splitlines()
        assert line.startswith(f"step-{step:08d}")


def test_prune_counts_whole_checkpoints_alone(three: Scene, call: Call) -> None:
    """The newest has a flipped byte, the oldest a broken manifest: what is left must be gone on from."""
    assert call("checkpoint", "prune", "run", "--keep", "1").code == 0
    assert "whole" in call("checkpoint", "verify", "run/checkpoints/step-00000020").out


def test_diff(scene: Scene, call: Call) -> None:
    scene.checkpoint(20)
    scene.checkpoint(30)
    same = call("checkpoint", "diff", "run", "run/checkpoints/step-00000020")
    assert same.code == 0
    head, other, state, counts = same.out.splitlines()
    assert head == "A run/checkpoints/step-00000030" and other == "B run/checkpoints/step-00000020"
    assert "step=30" in state and counts.split(",")[1].strip().split()[0] == counts.split()[0]
    part = scene.run / "checkpoints" / "step-00000030" / "attempt-00001-rank-00001.safetensors"
    flip_byte(part, part.stat().st_size - 1)  # the sign of the last value
    apart = call("checkpoint", "diff", "run", "run/checkpoints/step-00000020", "--most", "1")
    assert apart.code == 0 and len(apart.out.splitlines()) == 6
    assert apart.out.splitlines()[-1].startswith("weights/") or apart.out.splitlines()[-1].startswith("exp_")


def test_prune(three: Scene, call: Call) -> None:
    checkpoints = three.run / "checkpoints"
    (checkpoints / "step-00000025").mkdir()
    before = three.files()
    tried = call("checkpoint", "prune", "run", "--keep", "1", "--keep-best", "1", "--dry-run")
    assert tried.code == 0 and three.files() == before
    assert tried.out.splitlines() == [
        "step-00000010  would be removed",
        "step-00000025  would be removed",
    ]
    done = call("checkpoint", "prune", "run", "--keep", "1", "--keep-best", "1")
    assert done.code == 0 and "step-00000025  removed" in done.out
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000020", "step-00000030"]
    assert call("checkpoint", "prune", "run", "--keep", "9").out == "nothing to remove\n"


def test_checkpoints_where_the_config_says(scene: Scene, call: Call) -> None:
    """The run's own config names another folder."""
    scene.checkpoint(20)
    shutil.move(scene.run / "checkpoints", scene.folder / "elsewhere")
    (scene.run / "config.yaml").write_text(json.dumps({"checkpoint": {"folder": "elsewhere"}}))
    listed = call("checkpoint", "ls", "run")
    assert listed.code == 0 and listed.out.startswith("step-00000020")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diff", "nowhere", "run"], "nowhere: no such folder; name a checkpoint's folder or a run's"),
        (["diff", "data", "run"], "data: no committed checkpoint there"),
        (["prune", "run", "--keep", "0"], "--keep (0) must be at least 1: the newest is never removed"),
        (["prune", "run", "--keep", "1", "--keep-every", "0"], "--keep-every (0) must be at least 1"),
        (["prune", "run", "--keep", "1", "--keep-best", "-1"], "--keep-best (-1) must not be negative"),
        (["prune", "run"], "the following arguments are required: --keep"),
    ],
)
def test_wrong_calls(words: list[str], message: str, scene: Scene, call: Call) -> None:
    scene.checkpoint(20)
    before = scene.files()
    ended = call("checkpoint", *words)
    assert ended.code == 2 and ended.err.count("\n") == 1 and message in ended.err
    assert scene.files() == before
