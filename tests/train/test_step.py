"""Steps that must not count, what ranks agree on, and a DeepSpeed that does otherwise than asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from megatrain.config import Config, derive
from megatrain.errors import FailedWork
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.signals import Wish
from megatrain.train import engine as engine_module
from megatrain.train.engine import LEFT_IN_PLACE, deepspeed_config
from megatrain.train.step import ValidTokens, agree
from tests.distributed import training
from tests.distributed.ranks import run_ranks
from tests.distributed.training import act, open_engine, play, tiny

# The same run without those batches: a step is left out in the middle, and two in a row at other places.
BAD: dict[int, str | None] = {1: "loss", 3: "gradient", 4: "infinite", 6: "masked", 8: "spike"}
LEFT_OUT: dict[int, str | None] = dict.fromkeys(BAD)
STEPS = 10
BUCKET = {"contiguous_gradients": True, "reduce_bucket_size": 100_000}
GUARD = tuple(
    f"resilience.spikes.{setting}"
    for setting in ("action=skip", "window=8", "warmup_updates=4", "norm_floor=9", "loss_floor=1")
)
SETTINGS = {
    "zero 1": ("parallel.zero=1",),
    "zero 1, BF16_Optimizer": ("parallel.zero=1", "precision.dtype=bf16"),
    "zero 2": ("parallel.zero=2",),
    "zero 3": ("parallel.zero=3",),
}


def both(config: Config, context: ParallelContext) -> tuple[dict[str, Any], dict[str, Any]]:
    bad = training.train_with_bad_step(config, context, BAD, STEPS)
    return bad, training.train_with_bad_step(config, context, LEFT_OUT, STEPS)


def check_bad_steps(name: str, bad: dict[str, Any], left_out: dict[str, Any]) -> None:
    assert [record["skipped"] for record in bad["records"]] == [n in BAD for n in range(STEPS)], name
    good = [record for record in bad["records"] if not record["skipped"]]
    assert good == left_out["records"], name
    assert bad["digest"] == left_out["digest"], name
    state = bad["state"]
    assert (state.step, state.optimizer_step, state.skipped_in_row) == (STEPS, STEPS - len(BAD), 0)
    assert state.window == left_out["state"].window


def check_losses(bad: dict[str, Any]) -> None:
    assert math.isnan(bad["records"][6]["loss"]), "an average over nothing is no number"
    assert math.isnan(bad["records"][1]["loss"]) and math.isinf(bad["records"][4]["loss"])
    assert math.isfinite(bad["records"][3]["loss"]) and not math.isfinite(bad["records"][3]["norm"])
    others = [record["norm"] for n, record in enumerate(bad["records"]) if n not in BAD]
    assert 100 * max(others) < bad["records"][8]["norm"] < math.inf, "only the guard can stop this update"


def agreement(config: Config, context: ParallelContext) -> dict[str, Any]:
    """Four numbers of each rank, and one agreed on."""
    rank = context.world.rank
    valid = ValidTokens(10 + rank, context).total()
    wish = Wish(preempt=rank == 1, stop=False, save=rank == 0)
    found = agree(1.5 + rank, valid, wish, 0.25 * rank, 3.0 - rank, context, comm_wait_s=rank / 8)
    lone_wait = 0.0 if rank == 1 else math.nan
    nan = agree(math.nan if rank == 1 else 1.0, valid, Wish(), 0.0, 0.0, context, comm_wait_s=lone_wait)
    try:
        agree(1.0, valid, Wish(), 0.0, 0.0, context, updates=7 - (rank == 1))
    except FailedWork as error:
        apart = str(error)
    return {"valid": valid, "agreed": found, "nan": nan, "apart": apart}


def deviations(config: Config, context: ParallelContext) -> dict[str, str]:
    """DeepSpeed told otherwise than the config asks, one setting at a time."""
    real = engine_module.deepspeed_config
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "clipping": lambda c: c.update(gradient_clipping=7.0),
        "ZeRO stage": lambda c: c["zero_optimization"].update(stage=2),
        "accumulation dtype": lambda c: c.pop("data_types"),
        "accumulation steps": lambda c: (c.pop("train_batch_size"), c.update(gradient_accumulation_steps=7)),
    }
    told = {}
    for name, change in changes.items():

        def changed(*args: Any, change: Callable[..., object] = change) -> dict[str, Any]:
            settings = real(*args)
            change(settings)
            return settings

        engine_module.deepspeed_config = changed
        try:
            open_engine(config, context)
        except AssertionError as error:
            told[name] = str(error)
        finally:
            engine_module.deepspeed_config = real
    return told


def test_steps_that_are_not_finite_leave_no_trace() -> None:
    """One rank's loss or gradient is not finite: all skip, and all is as in a run without that batch.

    In the same processes: what ranks agree on, and an engine that is not what was asked for.
    """
    acts = [act(both, tiny(*settings, *GUARD)) for settings in SETTINGS.values()]
    acts.append(act(agreement, tiny()))
    acts.append(act(deviations, tiny("precision.dtype=bf16")))
    for rank, results in enumerate(run_ranks(play, 2, acts)):
        *pairs, agreed, told = results
        for name, (bad, left_out) in zip(SETTINGS, pairs, strict=True):
            check_bad_steps(f"{name}, rank {rank}", bad, left_out)
            check_losses(bad)
        assert agreed["valid"] == 21 and not agreed["nan"].finite
        found = agreed["agreed"]
        assert found.loss == (1.5 + 2.5) / 21 and found.finite
        assert found.wish == Wish(preempt=True, stop=False, save=True)
        assert (found.data_wait_s, found.own_s) == (0.25, (3.0, 2.0))
        assert found.comm_wait_s == (0.0, 0.125) and agreed["nan"].comm_wait_s == (), "not all could time it"
        assert agreed["apart"].startswith("ranks [1] left out an update that others made")
        assert set(told) == {"clipping", "ZeRO stage", "accumulation dtype", "accumulation steps"}
        for name, text in told.items():
            assert "DeepSpeed does not do what the config asks" in text and name in text


def test_tensor_parallel_neighbours_skip_together() -> None:
    """Also when the one whose loss is not the one that counts has it wrong: a broken device, say."""
    config = tiny("parallel.tensor=2", *GUARD)
    for agreed, (bad, left_out) in run_ranks(play, 2, [act(agreement, config), act(both, config)]):
        check_bad_steps("tensor 2", bad, left_out)
        assert not agreed["nan"].finite
        assert agreed["agreed"].loss == 1.5 / agreed["valid"], "one of the neighbours counts"


def test_gradients_left_in_place_are_those_copied_into_a_bucket() -> None:
    """One data-parallel rank, three micro-batches a step: bit for bit, and with less work."""
    copied = tiny(*(f"deepspeed.zero_optimization.{key}={value}" for key, value in BUCKET.items()))
    told = [deepspeed_config(c, derive(c, 1))["zero_optimization"] for c in (tiny(), copied)]
    assert told[0].items() >= LEFT_IN_PLACE.items() and told[1].items() >= BUCKET.items()
    assert (
        not deepspeed_config(tiny(), derive(tiny(), 2))["zero_optimization"].items() >= LEFT_IN_PLACE.items()
    )
    left, bucket = run_ranks(play, 1, [act(training.train, c, 4) for c in (tiny(), copied)])[0]
    assert left == bucket and left[0]["loss"] > left[-1]["loss"] > 0


@pytest.mark.parametrize("world", [1, 4])
def test_raw_settings_reach_deepspeed_and_ours_win(world: int) -> None:
    config = tiny(
        "deepspeed.zero_optimization.reduce_bucket_size=12345",
        "deepspeed.wall_clock_breakdown=true",
        "parallel.zero=2",
        "precision.dtype=bf16",
    )
    told = deepspeed_config(config, derive(config, world))
    assert told["zero_optimization"]["reduce_bucket_size"] == 12345
    assert told["zero_optimization"]["stage"] == 2 and told["wall_clock_breakdown"] is True
    assert told["gradient_clipping"] == 0.5 and told["bf16"] == {"enabled": True}
    assert told["data_types"] == {"grad_accum_dtype": "fp32"}
    assert (told["train_batch_size"], told["gradient_accumulation_steps"]) == {1: (6, 3), 4: (8, 1)}[world]
