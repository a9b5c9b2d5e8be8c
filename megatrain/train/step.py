"""One training step: forward and backward of every micro-batch, agreement over all ranks, update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatrain import faults
from megatrain.data.batch import RankBatch
from megatrain.errors import FailedWork
from megatrain.parallel.collectives import finish
from megatrain.parallel.context import Axis, ParallelContext
from megatrain.resilience.signals import Wish
from megatrain.resilience.spikes import Judge
from megatrain.state import StepResult, Stop, Verdict
from megatrain.train.clock import StepClock
from megatrain.train.engine import Engine

# What a rehearsed fault does to a loss or gradient.
FACTORS = {"nan": math.nan, "spike": 1e4}


@dataclass(frozen=True)
class Agreed:
    """What the ranks said in the step's one collective, put together."""

    loss: float
    finite: bool
    wish: Wish
    data_wait_s: float
    own_s: tuple[float, ...]
    comm_wait_s: tuple[float, ...]
    saving: bool


def train_step(
    engine: Engine,
    batch: RankBatch,
    learning_rate: float,
    wish: Wish,
    *,
    samples: int,
    judge: Judge,
    updates: int = 0,
    saving: bool = False,
    clock: StepClock | None = None,
) -> StepResult:
    """Collective. One optimizer step on one global batch of `samples` samples.

    A batch whose loss and gradient norm `judge` does not find fine, or none of whose tokens counts, leaves
    the weights as they were, on all ranks alike. updates: made before by this rank; saving: it still writes a
    checkpoint; clock: is kept from step to step. Raises FailedWork when the ranks have made different numbers
    of updates.
    """
    started = time.perf_counter()
    engine.set_learning_rate(learning_rate)
    clock = clock or StepClock(engine.context.device)
    clock.begin(batch.wait_s)
    faults.point("forward", rank=engine.context.world.rank)
    count = ValidTokens(batch.valid_tokens, engine.context)
    loss_sum = torch.zeros((), dtype=torch.float64, device=engine.context.device)
    bad_loss, bad_gradient = (_rehearsed(point, engine.context) for point in ("loss", "gradient"))
    for index, micro_batch in enumerate(batch.micro_batches):
        total = bad_loss(engine.forward(micro_batch).total)
        if index == 0:
            clock.forwarded()
        loss_sum += total.detach()
        engine.backward(bad_gradient(total), max(1, count.total()))
        if index < len(batch.micro_batches) - 1:
            engine.micro_step()
    valid = count.total()
    agreed = agree(
        float(loss_sum),
        valid,
        wish,
        batch.wait_s,
        clock.own_s,
        engine.context,
        comm_wait_s=clock.comm_wait_s,
        updates=updates,
        saving=saving,
    )
    judged_loss = agreed.loss if agreed.finite else math.nan

    def judged(norm: float) -> Verdict:
        return judge(judged_loss, norm) if valid else Verdict.NO_TOKENS

    engine.update(lambda norm: judged(norm) is Verdict.FINE)
    grad_norm = engine.grad_norm
    clock.end()
    return StepResult(
        loss=agreed.loss,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        samples=samples,
        valid_tokens=valid,
        verdict=judged(grad_norm),
        step_s=time.perf_counter() - started,
        data_wait_s=agreed.data_wait_s,
        stop=Stop.PREEMPTED if agreed.wish.preempt else Stop.ASKED if agreed.wish.stop else None,
        save=agreed.wish.save,
        saving=agreed.saving,
        own_s=agreed.own_s,
        comm_wait_s=agreed.comm_wait_s,
    )


def _rehearsed(point: str, context: ParallelContext) -> Callable[[torch.Tensor], torch.Tensor]:
    """What happens to this step's losses: nothing, unless somebody asked for a fault."""
    factor = FACTORS.get(faults.wanted(point, rank=context.world.rank) or "")
    return (lambda loss: loss) if factor is None else (lambda loss: loss * factor)


class ValidTokens:
    """The valid tokens of the global batch, summed over the data axis while the first forward pass runs."""

    def __init__(self, own: int, context: ParallelContext) -> None:
        """Collective."""
        self._count = torch.tensor([own], dtype=torch.int64, device=context.device)
        axis = context.data
        self._work = dist.all_reduce(self._count, group=axis.group, async_op=True) if axis.size > 1 else None

    def total(self) -> int:
        if self._work is not None:
            finish(self._work)
            self._work = None
        return int(self._count)


def agree(
    loss_sum: float,
    valid: int,
    wish: Wish,
    wait_s: float,
    own_s: float,
    context: ParallelContext,
    *,
    comm_wait_s: float = math.nan,
    updates: int = 0,
    saving: bool = False,
) -> Agreed:
    """Collective. The step's one collective: every rank comes to the same numbers in the same order of
    summation. Raises FailedWork, on all ranks, when they have not made the same number of updates."""
    wishes = (float(wish.preempt), float(wish.stop), float(wish.save))
    own = [loss_sum, *wishes, wait_s, own_s, float(saving), float(updates), comm_wait_s]
    rows = _gather_rows(own, context.world, context.device)
    made = [int(count) for count in rows[:, 7].tolist()]
    if len(set(made)) > 1:
        # The judge saw gradient norms that differ in their last bit: a sum in another order on some rank.
        raise FailedWork(
            f"ranks {[r for r, n in enumerate(made) if n < max(made)][:8]} left out an update that others "
            "made: start again from a checkpoint"
        )
    # tensor-parallel neighbours have the same loss: one of them counts
    losses = rows[:: context.tensor.size, 0]
    loss = math.fsum(losses.tolist()) / valid if valid else math.nan  # an average over nothing
    asked = rows[:, 1:4].amax(dim=0).tolist()
    return Agreed(
        loss=loss,
        finite=math.isfinite(loss) and bool(rows[:, 0].isfinite().all()),
        wish=Wish(preempt=bool(asked[0]), stop=bool(asked[1]), save=bool(asked[2])),
        data_wait_s=float(rows[:, 4].max()),
        own_s=tuple(rows[:, 5].tolist()),
        comm_wait_s=tuple(rows[:, 8].tolist()) if bool(rows[:, 8].isfinite().all()) else (),
        saving=bool(rows[:, 6].max()),
    )


def _gather_rows(own: list[float], axis: Axis, device: torch.device) -> torch.Tensor:
    """Collective. One row a rank, on the CPU, fp64."""
    row = torch.tensor(own, dtype=torch.float64, device=device)
    rows = [torch.empty_like(row) for _ in range(axis.size)]
    if axis.size == 1:
        rows[0] = row
    else:
        dist.all_gather(rows, row, group=axis.group)
    return torch.stack(rows).cpu()
