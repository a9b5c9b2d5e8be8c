"""Losses and gradients that must not count: left out, gone back from; and a rank whose weights differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from megatrain.config import Config
from megatrain.observe.samples import read_samples
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.replicas import differing
from megatrain.state import RunFolder
from tests.distributed import training
from tests.distributed.corpus import Play, curve, events, play_runs, run_config, saved_steps
from tests.distributed.ranks import RankFailure, run_ranks
from tests.distributed.training import act, fresh_state, open_engine, steps, tiny

# Sample → (point, what is done there): whichever rank reads the sample has the bad number.
Bad = Mapping[int, tuple[str, str]]
SPIKES = (
    "resilience.spikes.window=8",
    "resilience.spikes.warmup_updates=4",
    "resilience.spikes.norm_floor=9",
)
ROLLBACK = ("checkpoint.every=3", "resilience.max_skipped_in_row=2", "observe.sample_ids=true")
# Steps 5 and 6, whose samples are 20 to 29; the gradient alone in one, which DeepSpeed sees by itself.
TWO_BAD: Bad = {22: ("gradient", "nan"), 27: ("loss", "nan")}
TWO_SPIKES: Bad = {36: ("gradient", "spike"), 47: ("gradient", "spike")}  # steps 8 and 10
ALL_BAD: Bad = {sample: ("loss", "nan") for sample in range(20, 200)}
LAYOUTS = {
    "zero 1": ("parallel.zero=1",),
    "zero 1, BF16_Optimizer": ("parallel.zero=1", "precision.dtype=bf16"),
    "zero 2": ("parallel.zero=2",),
    "zero 3": ("parallel.zero=3",),
}


def play_bad(rank: int, plays: Sequence[Play], bads: Mapping[str, Bad]) -> list[str]:
    """`play_runs` with bad samples, by the name of the run's folder."""
    from megatrain import faults
    from megatrain.train import loop

    real_loop, real_step, real_wanted = loop.run_loop, loop.train_step, faults.wanted
    now: dict[str, Any] = {}

    def run_loop(session: Any, state: Any) -> Any:
        now["bad"] = bads.get(Path(session.config.run.folder).name, {})
        return real_loop(session, state)

    def train_step(engine: Any, batch: Any, *args: Any, **options: Any) -> Any:
        now["ids"] = set(batch.sample_ids.tolist())
        return real_step(engine, batch, *args, **options)

    def wanted(name: str, *, rank: int) -> str | None:
        done = [do for sample, (point, do) in now["bad"].items() if point == name and sample in now["ids"]]
        return done[0] if done else real_wanted(name, rank=rank)

    loop.run_loop, loop.train_step, faults.wanted = run_loop, train_step, wanted
    return play_runs(rank, plays)


def leave_out(folder: Path, first: int, last: int) -> None:
    """What a user may write who knows bad samples before the run."""
    folder.mkdir()
    tree = {"version": 1, "left_out": [{"first": first, "last": last}]}
    (folder / "skipped.json").write_text(json.dumps(tree))


def skipped_steps(folder: Path) -> list[int]:
    return [step for step, told in curve(folder).items() if told[-1]]


def read(folder: Path) -> list[int]:
    """The samples of the steps that stand, in order."""
    by_step = read_samples(RunFolder(folder))
    return [sample for step in sorted(by_step) for sample in sorted(i for ids in by_step[step] for i in ids)]


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")

    def play(name: str, *options: str, **deeds: Any) -> Play:
        return Play(run_config(corpus, folder / name, *options), **deeds)

    for name in LAYOUTS:
        leave_out(folder / f"told {name}", 20, 30)
    leave_out(folder / "told spike", 35, 40)
    on, back = (*SPIKES, "resilience.spikes.action=skip"), (*SPIKES, "resilience.spikes.action=rollback")
    all_kept = (*ROLLBACK, "checkpoint.keep=9")
    short = ("checkpoint.every=2", "train.steps=12")
    plays = {
        "clean": play("clean"),
        "nan": play("nan", fault="point=loss,rank=1,hit=3,do=nan"),
        "off": play("off", *SPIKES, *short),
        "spikes": play("spikes", *on, *short),
        "interrupted": play("interrupted", *on, *short, terminate={8: 1}),
        "spike": play("spike", *back, *ROLLBACK),
        "told spike": play("told spike", *back, *ROLLBACK),
        "cut": play("cut", *all_kept, terminate={4: 0}),
        "dead": play("dead", *all_kept, terminate={4: 1}),
        "slow save": play(
            "slow save", *ROLLBACK, fault="point=checkpoint.write,rank=1,hit=1,do=slow,seconds=1"
        ),
        "near": play(
            "near",
            *ROLLBACK,
            "checkpoint.every=100",
            f"checkpoint.tiers=[{{folder: '{folder / 'disk'}', every: 2}}]",
        ),
        "preempted": play("preempted", *ROLLBACK, terminate={5: 1}),
        "endless": play("endless", *ROLLBACK, "resilience.max_rollbacks=2"),
        "stop": play("stop", "resilience.not_finite=stop"),
        "nowhere": play("nowhere", "resilience.not_finite=rollback", fault="point=loss,hit=1,do=nan"),
    }
    for name, options in LAYOUTS.items():
        plays[name] = play(name, *ROLLBACK, *options)
        plays[f"told {name}"] = play(f"told {name}", *ROLLBACK, *options)
    bads = {
        "off": TWO_SPIKES,
        "spikes": TWO_SPIKES,
        "interrupted": TWO_SPIKES,
        "spike": {36: ("gradient", "spike")},
        **dict.fromkeys(("slow save", "near", "preempted", "cut", "dead"), TWO_BAD),
        "endless": ALL_BAD,
        "stop": TWO_BAD,
        **dict.fromkeys(LAYOUTS, TWO_BAD),
    }
    ends, others = run_ranks(play_bad, 2, list(plays.values()), bads)
    assert ends == others, "all ranks come to the same end"
    told = dict(zip(plays, ends, strict=True))
    failed = {name: told.pop(name) for name in ("endless", "stop", "nowhere")}
    (folder / "failed.json").write_text(json.dumps(failed))
    preempted = {name for name, end in told.items() if end == "preempted"}
    assert preempted == {"interrupted", "cut", "dead", "preempted"}
    assert set(told.values()) == {"done", "preempted"}, told

    # Two that were cut in a row of bad steps go on and go back; one is killed before anything is removed, the
    # other when all is done.
    for name, point, rank in (("cut", "recorded", 0), ("dead", "done", 1)):
        assert saved_steps(folder / name) == [3, 5]
        killed = play(name, *all_kept, fault=f"point=rollback.{point},rank={rank},do=kill")
        with pytest.raises(RankFailure):
            run_ranks(play_bad, 2, [killed], bads)
    assert saved_steps(folder / "cut") == [3, 5] and (folder / "cut" / "skipped.json").exists()
    assert saved_steps(folder / "dead") == [3]
    again = [play(name, *all_kept) for name in ("cut", "dead", "preempted")]
    again.append(play("interrupted", *on, *short))
    assert run_ranks(play_bad, 2, again, bads) == [["done"] * 4] * 2
    return folder


def test_a_bad_loss_on_one_rank_is_left_out_by_all(folder: Path) -> None:
    clean, bad = curve(folder / "clean"), curve(folder / "nan")
    assert skipped_steps(folder / "nan") == [3] and skipped_steps(folder / "clean") == []
    assert [bad[step] for step in (1, 2)] == [clean[step] for step in (1, 2)] and bad[4] != clean[4]
    (event,) = events(folder / "nan", "skip")
    assert event["step"] == 3 and event["samples"] == [10, 15] and event["cause"] == "not finite"
    assert event["loss"] is None and event["grad_norm"] is None, "what JSON has no word for"
    assert not (folder / "nan" / "skipped.json").exists()


def test_a_gradient_spike_is_left_out_where_that_is_asked_for(folder: Path) -> None:
    """The loss is as it was; with the guard off the update is made."""
    assert skipped_steps(folder / "off") == [] and skipped_steps(folder / "spikes") == [8, 10]
    assert {event["cause"] for event in events(folder / "spikes", "skip")} == {"gradient norm spike"}
    on, off = curve(folder / "spikes"), curve(folder / "off")
    assert on[8][:2] == off[8][:2] and on[9][0] != off[9][0]


def test_a_resumed_run_judges_as_the_unbroken_one(folder: Path) -> None:
    """The second spike comes after the resume, and is judged by updates before it."""
    (resumed,) = events(folder / "interrupted", "resume")
    assert resumed["step"] == 9
    assert curve(folder / "interrupted") == curve(folder / "spikes")
    last = [folder / name / "checkpoints/step-00000012/MANIFEST.json" for name in ("interrupted", "spikes")]
    interrupted, unbroken = (json.loads(path.read_text())["state"] for path in last)
    assert interrupted["window"] == unbroken["window"] and len(unbroken["window"]) == 8
    assert all(math.isfinite(number) for pair in unbroken["window"] for number in pair)


@pytest.mark.parametrize("name", [*LAYOUTS, "spike"])
def test_back_to_a_checkpoint_and_on_without_the_bad_samples(folder: Path, name: str) -> None:
    """All is equal, bit for bit, to a run that was told from the start to leave them out."""
    run, told = folder / name, folder / f"told {name}"
    first, last, step, to_step = (35, 40, 8, 6) if name == "spike" else (20, 30, 6, 3)
    assert curve(run) == curve(told) and skipped_steps(run) == []
    assert read(run) == read(told) == [n for n in range(50 + last - first) if not first <= n < last]
    (event,) = events(run, "rollback")
    assert (event["step"], event["from_step"], event["to_step"]) == (step, step, to_step)
    assert event["samples"] == [first, last]
    (record,) = json.loads((run / "skipped.json").read_text())["left_out"]
    assert (record["first"], record["last"], record["to_step"]) == (first, last, to_step)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, step + 1), *range(to_step + 1, 11)]
    assert {line["attempt"] for line in lines} == {1}, "an attempt is a start"
    ends = [path / "checkpoints" / "step-00000010" / "MANIFEST.json" for path in (run, told)]
    states = [json.loads(path.read_text())["state"] for path in ends]
    assert states[0] == states[1] and states[0]["skipped"] == [[first, last]]
    hashes = [[file["xxh3"] for file in json.loads(path.read_text())["files"]] for path in ends]
    assert hashes[0] == hashes[1], "weights and moments"


def test_a_save_under_way_is_waited_for(folder: Path) -> None:
    """The only checkpoint to go back to is still being written."""
    assert curve(folder / "slow save") == curve(folder / "told zero 1")
    (event,) = events(folder / "slow save", "rollback")
    assert event["to_step"] == 3


def test_the_nearest_checkpoint_of_all_tiers_is_taken(folder: Path) -> None:
    assert curve(folder / "near") == curve(folder / "told zero 1")
    (event,) = events(folder / "near", "rollback")
    assert event["to_step"] == 4 and "disk" in event["cause"]


def test_preempted_in_the_step_that_goes_back(folder: Path) -> None:
    """It goes back, makes one step, saves and ends; nothing of it is lost."""
    assert [event["step"] for event in events(folder / "preempted", "preempt")] == [4]
    assert [event["step"] for event in events(folder / "preempted", "resume")] == [4]
    assert curve(folder / "preempted") == curve(folder / "told zero 1")


def test_killed_right_after_a_rollback(folder: Path) -> None:
    """The next start goes to where the run was going, not to the newer checkpoint among the bad steps."""
    assert curve(folder / "dead") == curve(folder / "told zero 1")
    assert [event["step"] for event in events(folder / "dead", "resume")] == [5, 3]
    # Every rank is killed there: where another is the first, rank 0 may be ended before it has told.
    assert len(events(folder / "dead", "rollback")) <= 1
    assert len(events(folder / "dead", "skip")) == 2
    assert [event["step"] for event in events(folder / "cut", "resume")] == [5, 3]
    assert curve(folder / "cut") == curve(folder / "told zero 1")
    assert saved_steps(folder / "cut") == [3, 6, 9, 10], "nothing is left of step 5"
    assert not events(folder / "cut", "rollback"), "it was recorded, no more"


def test_when_the_run_ends(folder: Path) -> None:
    failed = json.loads((folder / "failed.json").read_text())
    assert all(text.startswith("FailedWork: ") and "\n" not in text for text in failed.values())
    assert "went back to step 3 2 times already (resilience.max_rollbacks)" in failed["endless"]
    assert [event["samples"] for event in events(folder / "endless", "rollback")] == [[20, 30], [30, 40]]
    assert "a step was skipped, the last is step 5 (not finite); see" in failed["stop"]
    assert "after step 0, and there is no checkpoint from before to go back to" in failed["nowhere"]
    assert not (folder / "nowhere" / "skipped.json").exists()


# --- replicas ---


def flipped(config: Config, context: ParallelContext, kind: str) -> tuple[Any, Any]:
    """What the check says of sound weights after some steps, and when rank 1 has one bit wrong."""
    engine = open_engine(config, context)
    steps(engine, config, fresh_state(config), 2)
    before = differing(engine.copies(), engine.shared(), context)
    held = engine.copies() if kind == "copies" else engine.shared()
    if context.world.rank == 1:
        held[-1][1].view(-1)[-1:].neg_()
    return before, differing(engine.copies(), engine.shared(), context)


def test_a_flipped_bit_is_found_and_its_rank_named(corpus: Path, tmp_path: Path) -> None:
    """Of three data-parallel ranks the one; nothing is saved any more. Sound runs are left alone."""
    options = ("resilience.check_replicas_every=3", "checkpoint.every=3")
    plays = [
        Play(run_config(corpus, tmp_path / f"zero-{zero}", *options, f"parallel.zero={zero}"))
        for zero in (1, 2, 3)
    ]
    fault = "point=weights,rank=1,hit=2,do=flip"
    plays.append(Play(run_config(corpus, tmp_path / "flip", *options), fault=fault))
    for ends in run_ranks(play_runs, 3, plays):
        assert ends[:3] == ["done"] * 3
        assert ends[3].startswith("FailedWork: step 6: rank 1 on ")
    (event,) = events(tmp_path / "flip", "fault")
    assert event["step"] == 6 and event["cause"].startswith("rank 1 on ") and "rank 2" not in event["cause"]
    assert "embedding.weight" in event["cause"] and saved_steps(tmp_path / "flip") == [3]


def test_tensor_parallel_neighbours_are_compared_and_go_back_together(corpus: Path, tmp_path: Path) -> None:
    """Of two that differ nobody can tell which is right: both are named."""
    leave_out(tmp_path / "told", 20, 30)
    options = (*ROLLBACK, "parallel.tensor=2", "model.kv_heads=2", "resilience.check_replicas_every=1")
    plays = [Play(run_config(corpus, tmp_path / name, *options)) for name in ("run", "told")]
    assert run_ranks(play_bad, 2, plays, {"run": TWO_BAD}) == [["done"] * 2] * 2
    assert curve(tmp_path / "run") == curve(tmp_path / "told") and read(tmp_path / "run")[20] == 30
    acts = [act(flipped, tiny("parallel.tensor=2", f"parallel.zero={zero}"), "shared") for zero in (1, 2, 3)]
    for results in run_ranks(training.play, 2, acts):
        for before, after in results:
            assert before is None
            assert "rank 0 on" in after and "rank 1 on" in after and "norm" in after
