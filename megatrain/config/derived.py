"""All numbers that follow from the config and the number of ranks, computed in this one place."""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatrain.config.tree import Config, DataConfig
from megatrain.errors import require


@dataclass(frozen=True)
class Derived:
    world: int
    """Ranks."""
    data_parallel: int
    """Data-parallel groups: world / parallel.tensor."""
    accumulation: int
    """Micro-batches that one rank takes for one optimizer step."""
    padded_batch: int
    """Rows of a global batch with its padding rows: micro_batch * accumulation * data_parallel."""
    tokens_per_step: int
    """Positions of one global batch, without padding rows."""


def derive(config: Config, world: int) -> Derived:
    """Derive the run's numbers for `world` ranks; a world that the layout does not fit is a UserError."""
    tensor = config.parallel.tensor
    require(
        world >= 1 and world % tensor == 0,
        f"parallel.tensor ({tensor}) must divide the number of ranks ({world}); "
        f"start a multiple of {tensor} ranks or set parallel.tensor to a divisor of {world}",
    )
    data_parallel = world // tensor
    rows = config.train.micro_batch * data_parallel
    accumulation = -(-config.train.global_batch // rows)
    return Derived(
        world=world,
        data_parallel=data_parallel,
        accumulation=accumulation,
        padded_batch=accumulation * rows,
        tokens_per_step=config.train.global_batch * config.data.sequence_length,
    )


def first_samples(data: DataConfig) -> tuple[int, ...]:
    """The sample with which each of data.phases begins: the first that begins at its token or after it."""
    return tuple(math.ceil(phase.from_tokens / data.sequence_length) for phase in data.phases)
