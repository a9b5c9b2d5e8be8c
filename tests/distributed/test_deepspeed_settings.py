"""The section `deepspeed`: what is passed on has an effect; what DeepSpeed refuses is told in one line."""

from __future__ import annotations

import logging
from typing import Any

from megatrain.config import Config
from megatrain.config.deepspeed import DeepSpeedConfig, RawZeroConfig
from megatrain.errors import UserError
from megatrain.parallel.context import ParallelContext
from megatrain.train import engine as engine_module
from tests.distributed import training
from tests.distributed.ranks import run_ranks
from tests.distributed.training import act, tiny


def told(config: Config, context: ParallelContext) -> list[str]:
    """What DeepSpeed logs while an engine is made and takes a step."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("DeepSpeed").addHandler(handler)
    training.train(config, context, 1)
    logging.getLogger("DeepSpeed").removeHandler(handler)
    return lines


def settings_of(config: Config, context: ParallelContext) -> dict[str, Any]:
    """As they reach the optimizer and the engine."""
    engine = training.open_engine(config, context).deepspeed
    return {
        "bucket": engine.optimizer.reduce_bucket_size,
        "overlap": engine.zero_overlap_comm(),
    }


def refused(config: Config, context: ParallelContext) -> str:
    try:
        engine_module.build_engine(config, training.derive(config, context.world.size), context)
    except UserError as error:
        return str(error)
    return "not refused"


def test_settings_reach_deepspeed_and_its_refusal_is_one_line() -> None:
    overrides = (
        "deepspeed.comms_logger={enabled: true, verbose: true, prof_all: true}",
        "deepspeed.dump_state=true",
        "deepspeed.zero_optimization={reduce_bucket_size: 1e4, overlap_comm: false}",
        "parallel.zero=2",
    )
    config = tiny(*overrides)
    newer = config.model_copy(  # as if DeepSpeed had other limits than megatrain
        update={
            "deepspeed": DeepSpeedConfig(
                zero_optimization=RawZeroConfig.model_construct(reduce_bucket_size=-5)
            )
        }
    )
    acts = [act(told, config), act(settings_of, config), act(refused, newer)]
    by_rank = run_ranks(training.play, 2, acts)
    for _, settings, message in by_rank:
        assert settings == {"bucket": 10_000, "overlap": False}
        assert message.startswith("deepspeed: DeepSpeed ") and "reduce_bucket_size" in message
        assert "\n" not in message
    for sign in ("DeepSpeedEngine", "comm op"):
        assert any(sign in line for line in by_rank[0][0]), "rank 0 tells"
